"""What the runtime needs of processes: to start and end them, to talk to those that have the SDK, and to hear of those that have not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from supervisor.core.actions import SendBrake, SendCancel, SendDrain, SendJob, SendPause, SendResume, SendResync, SendStored, SendWelcome
from supervisor.core.events import TreeGone, TreeStuck
from supervisor.core.limits import WorkerSpec
from supervisor.core.model import Evidence, WorkerName

ToWorker = SendBrake | SendCancel | SendDrain | SendJob | SendPause | SendResume | SendResync | SendStored | SendWelcome


FIRST_DESCRIPTOR: Final = 3
"""The number under which a program finds the first of the descriptors that it is given."""


class SpawnError(Exception):
    """There is no process; the message says why."""


class Launch(Struct, frozen=True, kw_only=True):
    """All that is needed to start one generation of a worker."""

    worker: WorkerName
    generation: int
    token: str
    tag: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    umask: str
    oom_score_adj: int
    user: str = ""
    descriptors: tuple[int, ...] = ()  # of ours, which it gets as 3, 4, ...


class Processes(Protocol):
    """Worker processes: every signal proves first that its target is ours."""

    def expect(self, worker: WorkerName, generation: int) -> None:
        """Remember from now on what is ordered of a generation that is about to be spawned."""
        ...

    async def spawn(self, launch: Launch) -> int:
        """Start it and return the pid, once its own program runs. Raises SpawnError. Its exit comes as a WorkerExited event."""
        ...

    async def terminate(self, worker: WorkerName, generation: int, name: str = "TERM") -> None:
        """Send the signal of this name, then SIGCONT, to its group."""
        ...

    async def kill(self, worker: WorkerName, generation: int) -> None:
        """SIGKILL to its whole tree."""
        ...

    async def prove_gone(self, worker: WorkerName, generation: int, within_s: float) -> TreeGone | TreeStuck:
        """End what the leader left behind; return the proof that nothing is left, or who is."""
        ...

    async def evidence(self, worker: WorkerName, generation: int) -> Evidence:
        """Return what can be seen of it, within three seconds."""
        ...

    async def memory(self) -> Mapping[WorkerName, int]:
        """Return the PSS of every worker's tree in bytes."""
        ...

    async def outsiders(self) -> Sequence[str]:
        """Return who has most memory of those that are not ours, in words, the most first."""
        ...

    async def memory_of(self, worker: WorkerName) -> int:
        """Return the PSS of one worker's tree in bytes; 0 when nothing of it is left."""
        ...


class Programs(Protocol):
    """What programs without the SDK show: by sd_notify, by their output, by a file. It comes as ProgramSeen events."""

    def begin(self, worker: WorkerName, generation: int, spec: WorkerSpec, *, log: Path, file: Path | None = None, adopted: bool = False) -> Mapping[str, str]:
        """Watch a generation that is about to start, or was taken back. Returns what to add to its environment. Raises SpawnError."""
        ...

    def end(self, worker: WorkerName, generation: int) -> None:
        """Forget a generation that is gone, or never came to be."""
        ...


class Channel(Protocol):
    """The line to the workers."""

    def expect(self, worker: WorkerName, generation: int, token: str) -> None:
        """Believe messages with this token from now on, and those of no earlier generation."""
        ...

    def send(self, action: ToWorker, *, folder: Path | None = None, checkpoint: Path | None = None) -> None:
        """Send what the action says. A worker that is away loses it: what matters is repeated by the rules of the core."""
        ...

    def ping(self) -> None:
        """Tell every worker that the supervisor lives."""
        ...
