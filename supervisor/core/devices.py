"""Devices: what a reading shows of one, and how one goes from hand to hand. Instants (`_at_s`) are monotonic seconds, sizes are bytes."""

from collections.abc import Mapping

from msgspec import Struct, field

from supervisor.core.names import DeviceId, JobId, LeaseId, Ticket, WorkerName
from supervisor.core.states import DeviceState


class Holding(Struct, frozen=True):
    """What one process tree uses of a device. worker is None for one that is not ours; used_bytes: None where nobody tells how much it has."""

    worker: WorkerName | None
    pid: int
    used_bytes: int | None
    name: str = ""  # of a process that is not ours, where it can be read
    above: tuple[int, ...] = ()  # the ancestors of one that is not ours


class DeviceSample(Struct, frozen=True, kw_only=True):
    """One reading of a device."""

    used_bytes: int
    free_bytes: int
    holdings: tuple[Holding, ...] = ()
    total_bytes: int | None = None  # where the reading tells it as well
    node: str = ""  # the file by which programs reach it
    openers: tuple[Holding, ...] = ()  # who has that file open and is not listed: looked for where more is used than those who are listed have
    proof: str = ""  # which proof of its memory being free this reading is; empty: the same as before
    by_pid: bool = True  # whose the memory is, is told by pid; False: nobody is listed, or by pids that may be another namespace's
    by_process: bool = True  # what each process uses is told; False: only what all use together
    others: bool = True  # what programs that are not ours use is among the holdings


class Peak(Struct, frozen=True, kw_only=True):
    """What some work is known to take of a device, and of the machine's memory."""

    seen_bytes: int = 0  # the most that it was seen to use
    wanted_bytes: int = 0  # what it is taken to need since so much less was too little for it
    memory_bytes: int = 0  # of the machine's: the most that its worker's processes had while it ran to a good end

    @property
    def most_bytes(self) -> int:
        """Return the larger one of a device."""
        return max(self.seen_bytes, self.wanted_bytes)


class Handover(Struct, frozen=True, kw_only=True):
    """A device on its way to a worker, or to an outside waiter: who leaves for it, and what was proved so far, each step with its time."""

    lease: LeaseId
    worker: WorkerName | None = None
    waiter: Ticket | None = None
    name: str = ""  # of the program that waits
    job: JobId | None = None
    leaving: tuple[WorkerName, ...]
    awaits: tuple[LeaseId, ...] = ()  # the leases that must be over before anything is measured; others may stay beside the newcomer
    need_bytes: int
    ordered_at_s: float
    exited_at_s: float | None = None  # the last leader of those who leave was reaped
    gone_at_s: float | None = None  # their trees were proved empty
    back_at_s: float | None = None  # the first reading with enough free
    proved_at_s: float | None = None  # the second one
    polls: int = 0
    spawned_at_s: float | None = None

    @property
    def to(self) -> str:
        """Return whose the device is to be, in words."""
        return self.worker or self.name


class Device(Struct, frozen=True, kw_only=True):
    """A card, or the host's RAM standing for one."""

    id: DeviceId
    name: str
    backend: str
    total_bytes: int
    state: DeviceState = DeviceState.OK
    proof: str = ""  # how its memory is proved to be free
    trouble: str = ""  # why the last reading failed, and what a person can do about it
    fault: str = ""  # what its driver reported that takes it out of service, and what a person can do
    fault_failed: bool = False  # it could not be read since: one that can be read again was reset
    xids: Mapping[int, int] = field(default_factory=dict)  # how often the driver reported which fault
    sample: DeviceSample | None = None
    handover: Handover | None = None
    last_handover: Handover | None = None
    intruders: tuple[Holding, ...] = ()  # who uses it without a lease, while somebody has one or is to have one
    named: tuple[int, ...] = ()  # the pids of those who were intruders and are still listed: each is told of once
    suspects: Mapping[int, float] = field(default_factory=dict)  # by pid, since when one has been seen that may be an intruder
    hold_off_until_s: float = 0.0  # after a refusal nobody returns by itself before this
    look_at_s: float = 0.0  # when the reading that was ordered last is due
    freed_at_s: float | None = None  # when the memory of a lease on it was last said to be back
