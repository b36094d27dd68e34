"""Why a job is where it is: one row for each state and each reason to wait, with every sentence as a person reads it."""

from typing import Any

import pytest
from msgspec.structs import replace

from supervisor.core.jobs import RELEASING
from supervisor.core.limits import GIB, MIB, JobLimits, Limits, WorkerSpec
from supervisor.core.model import (
    Cause,
    Device,
    DeviceId,
    DeviceSample,
    Failure,
    Fleet,
    Handover,
    Holding,
    Job,
    JobId,
    JobStatus,
    Lease,
    LeaseId,
    LeaseState,
    Outside,
    Process,
    Reason,
    Receipt,
    Source,
    Stop,
    Ticket,
    Waiter,
    Wanted,
    Worker,
    WorkerName,
    WorkerState,
    Zone,
)
from supervisor.runtime.views import position, positions
from supervisor.runtime.why import why_view
from supervisor.shapes import MemoryWaitView

NOW, WALL = 1000.0, 1_800_000_000.0
HOST, SAM, YOLO = DeviceId("host"), WorkerName("sam-0"), WorkerName("yolo-0")
LIMITS = Limits(
    workers={
        "sam": WorkerSpec(command=("sam",), serves=("sam.propagate",), gpu_bytes=14 * GIB, priority=10),
        "yolo": WorkerSpec(command=("yolo",), serves=("yolo.train",), gpu_bytes=8 * GIB, priority=15, resident=False),
        "words": WorkerSpec(command=("words",), serves=("words.count",)),
    }
)
PROCESS = Process(spawned_at_s=NOW - 100, pid=41, hello_at_s=NOW - 99, ready_at_s=NOW - 90, beat_at_s=NOW - 0.4)
TRAINING = Job(
    id=JobId("j-7k2"),
    kind="yolo.train",
    status=JobStatus.RUNNING,
    worker=YOLO,
    device=HOST,
    attempt=1,
    max_attempts=4,
    phase="train",
    done=12,
    total=48,
    metrics={"mAP50": 0.4123},
    begun_at_s=NOW - 600,
    progress_at_s=NOW - 9,
    paced_from=(NOW - 600, 0.0),
    sent_at_s=NOW - 601,
)
WAITING = Job(
    id=JobId("j-7k9"),
    kind="sam.propagate",
    priority=10,
    queued_at_s=NOW - 130,
    reason=Reason.WAITING_FOR_GPU,
    message="yolo-0 holds host and is busy with j-7k2",
)
HANDED = Handover(lease=LeaseId("l-2"), worker=SAM, job=WAITING.id, leaving=(YOLO,), need_bytes=14 * GIB, ordered_at_s=NOW - 2)
DEVICE = Device(
    id=HOST,
    name="host",
    backend="host",
    total_bytes=16 * GIB,
    sample=DeviceSample(used_bytes=9 * GIB, free_bytes=7 * GIB, holdings=(Holding(YOLO, 41, 8 * GIB), Holding(None, 5120, GIB))),
    last_handover=replace(HANDED, ordered_at_s=100.0, proved_at_s=101.7),
)
HELD = Lease(id=LeaseId("l-1"), device=HOST, worker=YOLO, need_bytes=8 * GIB, priority=15, state=LeaseState.HELD, since_s=NOW - 600, fence=3)
WANTED = Lease(id=LeaseId("l-2"), device=HOST, worker=SAM, need_bytes=14 * GIB, priority=10, state=LeaseState.WAITING, since_s=NOW - 2)
BUSY = Worker(name=YOLO, model="yolo", state=WorkerState.BUSY, since_s=NOW - 600, process=PROCESS, jobs=(TRAINING.id,))
AWAY = Worker(name=SAM, model="sam", since_s=NOW - 600)
FREE = Worker(name=WorkerName("words-0"), model="words", since_s=NOW - 600)
CLOCKS = [
    "clock: its worker's last heartbeat was 0.4 s ago, 1 min are allowed, 60 s left",
    "clock: its last progress was 9.0 s ago, 10 min are allowed, 9 min left",
]
FAR = "phase train, 12 of 48 (25 %), about 30 min left, mAP50 0.412"


def fleet(*jobs: Job, workers: tuple[Worker, ...] = (BUSY, AWAY, FREE), device: Device | None = DEVICE, leases: tuple[Lease, ...] = (HELD,)) -> Fleet:
    """Return the fleet with these jobs: yolo-0 trains on the only device unless said otherwise."""
    devices = {device.id: device} if device else {}
    return Fleet(
        jobs={job.id: job for job in jobs},
        workers={worker.name: worker for worker in workers},
        devices=devices,
        leases={lease.id: lease for lease in leases if devices},
    )


SIX: dict[str, Any] = {"memory_bytes": 6 * GIB, "memory_from": Source.DECLARED}


def machine(*jobs: Job) -> Fleet:
    """Return a machine of 32 GiB with 8 left, on which one worker is at work and another idle."""
    idle = replace(FREE, state=WorkerState.READY, process=PROCESS, memory_bytes=2 * GIB)
    return replace(fleet(*jobs, workers=(replace(BUSY, memory_bytes=3 * GIB), idle)), available_bytes=8 * GIB, memory_bytes=32 * GIB)


def why(job: Job, around: Fleet | None = None, limits: Limits = LIMITS) -> Any:
    """Return the answer at the instant NOW."""
    return why_view(job, fleet=around if around is not None else fleet(TRAINING, job), limits=limits, now_s=NOW, wall_s=WALL)


def changed(job: Job, **fields: Any) -> Job:
    """Return the job with other fields."""
    return replace(job, **fields)


LEAVING = replace(BUSY, state=WorkerState.STOPPING, jobs=(), stop=Stop(cause=Cause.HANDOVER, reason="makes room", ordered_at_s=NOW - 2))
ORDER = "order: place 1 of 1, priority 10, 8 by now (0 is the most urgent), waiting for 2 min"
REST = "order: it has no place yet, priority 10, 8 by now (0 is the most urgent); 0 wait in the queue"
NEEDS = "needs: 14GiB and 256MiB of margin on host; 7GiB of 16GiB free; yolo-0 (pid 41) holds 8GiB, busy for 600 s; pid 5120, not ours, uses 1GiB"
THERE = "now: on host: 7GiB of 16GiB free; yolo-0 (pid 41) holds 8GiB, stopping for 600 s; pid 5120, not ours, uses 1GiB"
WORD = changed(WAITING, kind="words.count", reason=Reason.WAITING_FOR_WORKER, message="words-0 is wanted down (warden workers start words-0)")
PREPARING = changed(WAITING, status=JobStatus.PREPARING, reason=Reason.NONE, message="", worker=SAM, attempt=1, max_attempts=4)
TO_SAM = replace(AWAY, jobs=(PREPARING.id,))


def handed(**fields: Any) -> Fleet:
    """Return the fleet while the device is on its way from yolo-0 to sam-0."""
    return fleet(PREPARING, workers=(LEAVING, TO_SAM), device=replace(DEVICE, handover=replace(HANDED, **fields)), leases=(HELD, WANTED))


ROWS: dict[str, tuple[Job, Fleet | None, list[str], list[str]]] = {
    "waiting for a device that is busy": (
        WAITING,
        None,
        [
            "j-7k9 waits: yolo-0 holds host and is busy with j-7k2.",
            NEEDS,
            f"now: yolo-0 is at j-7k2 (yolo.train, running, since 10 min): {FAR}",
            (
                "then: whoever holds host leaves when its work is done (about 30 min from now), the need is proved free twice, and the work is loaded; "
                "the last hand-over, to sam-0, took 1.7 s until the proof"
            ),
            ORDER,
        ],
        ["warden gpu status", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting for what cannot come while a stranger stays": (
        WAITING,
        fleet(
            WAITING,
            changed(TRAINING, paced_from=None),
            device=replace(DEVICE, sample=DeviceSample(used_bytes=2 * GIB, free_bytes=14 * GIB, holdings=(Holding(None, 5120, 2 * GIB),)), last_handover=None),
        ),
        [
            "j-7k9 waits: yolo-0 holds host and is busy with j-7k2.",
            "needs: 14GiB and 256MiB of margin on host; 14GiB of 16GiB free; yolo-0 (pid 41) holds ?, busy for 600 s; pid 5120, not ours, uses 2GiB",
            "now: yolo-0 is at j-7k2 (yolo.train, running, since 10 min): phase train, 12 of 48 (25 %), mAP50 0.412",
            "risk: pid 5120, not ours, must leave first: the need does not fit beside 2GiB, and the hand-over would be refused",
            "then: whoever holds host leaves when its work is done, the need is proved free twice, and the work is loaded",
            ORDER,
        ],
        ["warden gpu status", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting behind a hand-over": (
        changed(WAITING, message="host is being handed to sam-0"),
        fleet(WAITING, workers=(LEAVING, TO_SAM), device=replace(DEVICE, handover=replace(HANDED, job=JobId("j-1"))), leases=(HELD, WANTED)),
        [
            "j-7k9 waits: host is being handed to sam-0.",
            NEEDS.replace("busy for 600 s", "stopping for 600 s"),
            "now: host is being handed to sam-0 (j-1): yolo-0 asked to leave 2.0 s ago, not gone yet (yolo-0 is stopping)",
            "     if it is not proved free within 1 min more, the newcomer is refused (gpu.vacate_timeout)",
            ORDER,
        ],
        ["warden gpu status", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "no device is large enough": (
        changed(WAITING, message="no device is large enough"),
        fleet(WAITING, device=replace(DEVICE, total_bytes=8 * GIB)),
        ["j-7k9 waits: no device is large enough.", "needs: 14GiB and 256MiB of margin; host has 8GiB", ORDER],
        ["warden gpu status", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting for memory": (
        changed(WORD, reason=Reason.WAITING_FOR_MEMORY, message="it needs 6GiB of the machine's memory (declared), and too little is available", **SIX),
        machine(WORD, changed(TRAINING, memory_bytes=5 * GIB, memory_from=Source.DECLARED)),
        [
            "j-7k9 waits: it needs 6GiB of the machine's memory (declared), and too little is available.",
            "needs: 6GiB of the machine's memory (declared), 2GiB of which its worker has already",
            "now: 8GiB available, 4GiB of which stay free (memory.warn_below), 2GiB more is promised to j-7k2 on yolo-0",
            "now: yolo-0 has 3GiB (at work on j-7k2), words-0 has 2GiB (idle), all else on the machine 19GiB",
            "then: it begins once 2GiB more are available; those that need less may go before it, for 17 min more at the most",
            ORDER,
        ],
        ["warden status", "warden workers stop words-0", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting for memory behind one that waits for longer": (
        changed(WORD, reason=Reason.WAITING_FOR_MEMORY, message="it needs 6GiB", queued_at_s=NOW - 2000, priority=0, **SIX),
        machine(
            changed(WORD, reason=Reason.WAITING_FOR_MEMORY, queued_at_s=NOW - 2000, priority=0, **SIX),
            changed(WORD, id=JobId("j-old"), reason=Reason.WAITING_FOR_MEMORY, queued_at_s=NOW - 3000, **{**SIX, "memory_bytes": 3 * GIB}),
        ),
        [
            "j-7k9 waits: it needs 6GiB.",
            "needs: 6GiB of the machine's memory (declared), 2GiB of which its worker has already",
            "now: 8GiB available, 4GiB of which stay free (memory.warn_below), 1GiB is kept for j-old, which has waited for longer",
            "now: yolo-0 has 3GiB (at work on j-7k2), words-0 has 2GiB (idle), all else on the machine 19GiB",
            "then: it begins once 1GiB more are available; nobody behind it takes what it needs",
            "order: place 2 of 2, priority 0 (0 is the most urgent), waiting for 33 min; before it j-old",
        ],
        ["warden status", "warden workers stop words-0", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting for memory that runs out": (
        changed(WORD, reason=Reason.WAITING_FOR_MEMORY, message="the machine has too little memory available"),
        replace(machine(WORD), available_bytes=GIB, zone=Zone.EMERGENCY),
        [
            "j-7k9 waits: the machine has too little memory available.",
            "now: 1GiB available, memory.emergency_below is 2GiB",
            "now: yolo-0 has 3GiB (at work on j-7k2), words-0 has 2GiB (idle), all else on the machine 26GiB",
            ORDER,
        ],
        ["warden status", "warden workers stop words-0", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting until memory was read": (
        changed(WORD, reason=Reason.WAITING_FOR_MEMORY, message="what the machine has of memory is not read yet", **SIX),
        replace(machine(WORD), available_bytes=None),
        ["j-7k9 waits: what the machine has of memory is not read yet.", ORDER],
        ["warden status", "warden workers stop words-0", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting for a worker that is wanted down": (
        WORD,
        fleet(WORD, workers=(replace(FREE, wanted=Wanted.DOWN),)),
        [
            "j-7k9 waits: words-0 is wanted down (warden workers start words-0).",
            "now: words-0 is down: stays down until: warden workers start words-0",
            ORDER,
        ],
        ["warden workers start words-0", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "waiting for a worker that is busy": (
        changed(WORD, message="words-0 is busy with j-7k2"),
        fleet(WORD, changed(TRAINING, worker=WorkerName("words-0")), workers=(replace(FREE, state=WorkerState.BUSY, jobs=(TRAINING.id,)),)),
        ["j-7k9 waits: words-0 is busy with j-7k2.", f"now: words-0 is at j-7k2 (yolo.train, running, since 10 min): {FAR}", ORDER],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "nobody serves it any more": (
        changed(WORD, kind="gone", message="no worker in supervisor.toml serves gone any more"),
        fleet(changed(WORD, kind="gone")),
        ["j-7k9 waits: no worker in supervisor.toml serves gone any more.", ORDER],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "about to be placed": (
        changed(WAITING, reason=Reason.NONE, message=""),
        None,
        ["j-7k9 is about to be placed.", ORDER],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "submitted with hold": (
        changed(WAITING, held=True, run_at_wall=WALL + 60),
        None,
        ["j-7k9 waits until somebody starts it: it was submitted with hold.", REST],
        ["warden jobs start j-7k9", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "the queue is held": (
        changed(WAITING, reason=Reason.HELD, message="the queue is held"),
        replace(fleet(WAITING), held=True),
        ["j-7k9 waits because the queue is held: nothing new is started until it is released.", ORDER],
        ["warden jobs release", "warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "not before its time": (
        changed(WAITING, run_at_wall=WALL + 3 * 3600 + 300, schedule="nightly"),
        None,
        ["j-7k9 waits for its time: it was submitted by schedule nightly to run at 2027-01-15 11:05:00 UTC, in 3 h 05 min.", REST],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "the supervisor is stopping": (
        changed(WAITING, reason=Reason.NONE, message=""),
        replace(fleet(WAITING), stopping_since_s=NOW - 1),
        ["j-7k9 waits: the supervisor is stopping; the job is kept, and goes on at the next: warden run", ORDER],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "its time has come": (
        changed(WAITING, run_at_wall=WALL - 1, reason=Reason.SCHEDULED, message="its time has not come"),
        None,
        ["j-7k9 is about to be placed.", ORDER],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "after a failure": (
        changed(WAITING, retry_at_s=NOW + 12, message="attempt 1 ended: sam-0 ended under it: exit code 3"),
        None,
        ["j-7k9 waits 12 s more before it is tried again; attempt 1 ended: sam-0 ended under it: exit code 3.", REST],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "preparing, the holder leaves": (
        PREPARING,
        handed(),
        [
            "j-7k9 is being prepared on sam-0, attempt 1 of 4: it waits for the device.",
            "now: host is being handed to sam-0 (j-7k9): yolo-0 asked to leave 2.0 s ago, not gone yet (yolo-0 is stopping)",
            "now: if it is not proved free within 1 min more, the newcomer is refused (gpu.vacate_timeout)",
            THERE,
            "then: its worker is started, loads its model, and begins",
        ],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "preparing, the holder's children are looked for": (
        PREPARING,
        handed(exited_at_s=NOW - 1.7),
        [
            "j-7k9 is being prepared on sam-0, attempt 1 of 4: it waits for the device.",
            (
                "now: host is being handed to sam-0 (j-7k9): yolo-0 asked to leave 2.0 s ago, left after 0.3 s; "
                "that all of its processes are gone is being proved"
            ),
            "now: if it is not proved free within 1 min more, the newcomer is refused (gpu.vacate_timeout)",
            THERE,
            "then: its worker is started, loads its model, and begins",
        ],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "preparing, the memory is measured": (
        PREPARING,
        handed(exited_at_s=NOW - 1.7, gone_at_s=NOW - 1.4, polls=3),
        [
            "j-7k9 is being prepared on sam-0, attempt 1 of 4: it waits for the device.",
            (
                "now: host is being handed to sam-0 (j-7k9): yolo-0 asked to leave 2.0 s ago, left after 0.3 s, all processes gone after 0.6 s; "
                "7GiB free after 3 looks, 14GiB and the margin are needed"
            ),
            "now: if it is not proved free within 1 min more, the newcomer is refused (gpu.vacate_timeout)",
            THERE,
            "then: its worker is started, loads its model, and begins",
        ],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "preparing, its worker loads": (
        PREPARING,
        fleet(PREPARING, workers=(replace(TO_SAM, state=WorkerState.STARTING, since_s=NOW - 4, process=replace(PROCESS, spawned_at_s=NOW - 4)),), leases=()),
        [
            "j-7k9 is being prepared on sam-0, attempt 1 of 4: sam-0 is starting since 4.0 s; the job is sent as soon as it is ready.",
            CLOCKS[0],
            "clock: the start of its worker was 4.0 s ago, 5 min are allowed, 4 min left",
        ],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "preparing, sent": (
        changed(PREPARING, sent_at_s=NOW - 3),
        fleet(changed(PREPARING, sent_at_s=NOW - 3), workers=(replace(TO_SAM, state=WorkerState.BUSY, process=PROCESS),), leases=()),
        [
            "j-7k9 is being prepared on sam-0, attempt 1 of 4: it was handed over 3.0 s ago, and its worker has not begun yet.",
            CLOCKS[0],
            "clock: its last progress was 3.0 s ago, 10 min are allowed, 9 min left",
        ],
        ["warden jobs cancel j-7k9", "warden jobs watch j-7k9"],
    ),
    "running": (
        TRAINING,
        None,
        ["j-7k2 runs on yolo-0 (host) since 10 min, attempt 1 of 4.", f"progress: {FAR}", *CLOCKS],
        ["warden jobs pause j-7k2", "warden jobs cancel j-7k2", "warden jobs watch j-7k2", "warden workers dump yolo-0"],
    ),
    "running, in a critical section": (
        changed(TRAINING, critical="saving"),
        fleet(changed(TRAINING, critical="saving")),
        [
            "j-7k2 runs on yolo-0 (host) since 10 min, attempt 1 of 4.",
            f"progress: {FAR}",
            "critical: saving; until it is over nothing ends it but a lack of memory",
            CLOCKS[0],
            "clock: its last progress was 9.0 s ago, 10 min and 30 s more are allowed, 10 min left",
        ],
        ["warden jobs pause j-7k2", "warden jobs cancel j-7k2", "warden jobs watch j-7k2", "warden workers dump yolo-0"],
    ),
    "pausing": (
        changed(TRAINING, status=JobStatus.PAUSING),
        fleet(changed(TRAINING, status=JobStatus.PAUSING)),
        [
            "j-7k2 is asked to pause: its work leaves right after its next checkpoint, and the device is free then.",
            "now: j-7k2 runs on yolo-0 (host) since 10 min, attempt 1 of 4.",
            "progress: phase train, 12 of 48 (25 %), mAP50 0.412",
            *CLOCKS,
        ],
        ["warden jobs resume j-7k2", "warden jobs cancel j-7k2"],
    ),
    "paused": (
        changed(TRAINING, status=JobStatus.PAUSED, worker=None, device=None, message="at a checkpoint, as asked"),
        fleet(),
        [
            "j-7k2 is paused at 12 of 48 (25 %), at a checkpoint, as asked: it holds no device and no worker.",
            "then: resumed, it goes on from its last checkpoint, in a new attempt and maybe another process.",
        ],
        ["warden jobs resume j-7k2", "warden jobs cancel j-7k2"],
    ),
    "cancelling": (
        changed(TRAINING, status=JobStatus.CANCELLING, cancel_at_s=NOW - 3),
        None,
        [
            "j-7k2 was asked to stop 3.0 s ago: its work ends at its next report of progress.",
            "now: phase train, 12 of 48 (25 %), mAP50 0.412",
            "then: if it still works in 7.0 s, its process is ended",
        ],
        ["warden jobs watch j-7k2"],
    ),
    "cancelling, the memory is measured": (
        changed(TRAINING, status=JobStatus.CANCELLING, cancel_at_s=NOW - 3, phase=RELEASING, level_bytes=512 * MIB),
        None,
        [
            "j-7k2 was asked to stop 3.0 s ago, and its work has ended.",
            "now: its worker's device memory is read until it is back to 512MiB, as before the job",
        ],
        ["warden jobs watch j-7k2"],
    ),
    "completed": (
        changed(TRAINING, status=JobStatus.COMPLETED, completed_wall=WALL, started_wall=WALL - 240),
        fleet(),
        ["j-7k2 (yolo.train) is completed, at 2027-01-15 08:00:00 UTC 4 min after its work began."],
        ["warden jobs show j-7k2"],
    ),
    "cancelled": (
        changed(
            WAITING,
            status=JobStatus.CANCELLED,
            reason=Reason.NONE,
            message="before its work began",
            receipt=Receipt(freed_bytes=GIB, took_s=0.31),
            completed_wall=WALL,
        ),
        fleet(),
        ["j-7k9 (sam.propagate) was cancelled, at 2027-01-15 08:00:00 UTC: before its work began.", "freed: 1GiB in 0.3 s"],
        ["warden jobs retry j-7k9"],
    ),
    "failed": (
        changed(
            TRAINING,
            status=JobStatus.FAILED,
            reason=Reason.STALLED,
            completed_wall=WALL,
            started_wall=WALL - 240,
            tries={"stall": 1},
            level_bytes=2 * GIB,
            error=Failure(
                reason=Reason.STALLED,
                message="Training timed out - no progress updates for 10 minutes",
                evidence="no progress for 600.1 s, stall_after is 600 s; state D",
                phase="train",
                stack='File "train.py", line 3\nin step',
                log_tail=tuple(f"line {number}" for number in range(20)),
            ),
        ),
        fleet(),
        [
            "j-7k2 (yolo.train) has no result: stalled: Training timed out - no progress updates for 10 minutes",
            "evidence: no progress for 600.1 s, stall_after is 600 s; state D",
            "last: phase train, 12 of 48, attempt 1 of 4 on yolo-0",
            "failures: stall 1 (retried up to 0 times)",
            "time: it ended at 2027-01-15 08:00:00 UTC 4 min after its work began",
            "memory: its worker held 2GiB of the device",
            "stack:",
            '  File "train.py", line 3',
            "  in step",
            "log:",
            *(f"  line {number}" for number in range(8, 20)),
        ],
        ["warden jobs retry j-7k2", "warden logs yolo-0"],
    ),
    "refused the device": (
        changed(
            WAITING,
            status=JobStatus.FAILED,
            reason=Reason.GPU_REFUSED,
            error=Failure(reason=Reason.GPU_REFUSED, message="the device was not free: x", evidence="x", phase="vacating"),
        ),
        fleet(),
        [
            "j-7k9 (sam.propagate) has no result: gpu_refused: the device was not free: x",
            "last: phase vacating, no progress reported, attempt 0 of 1 on no worker",
        ],
        ["warden jobs retry j-7k9", "warden gpu status"],
    ),
}


@pytest.mark.parametrize(("job", "around", "sentences", "you_can"), ROWS.values(), ids=ROWS)
def test_each_state_tells_its_whole_story(job: Job, around: Fleet | None, sentences: list[str], you_can: list[str]) -> None:
    view = why(job, around)

    assert view.sentences == sentences
    assert view.you_can == you_can
    assert (view.job, view.kind, view.status) == (job.id, job.kind, job.status)


def test_every_status_and_every_reason_to_wait_has_a_row() -> None:
    waiting = {why(job, around).reason for job, around, _, _ in ROWS.values() if job.status is JobStatus.QUEUED}

    assert {job.status for job, _, _, _ in ROWS.values()} == set(JobStatus)
    assert waiting == {
        Reason.NONE,
        Reason.WAITING_FOR_GPU,
        Reason.WAITING_FOR_MEMORY,
        Reason.WAITING_FOR_WORKER,
        Reason.SCHEDULED,
        Reason.RETRY_BACKOFF,
        Reason.HELD,
    }


def test_the_numbers_of_a_wait_for_memory_are_there_for_programs() -> None:
    wait = why(changed(WORD, reason=Reason.WAITING_FOR_MEMORY, **SIX), machine(WORD)).wait

    assert wait.memory == MemoryWaitView(
        need_bytes=6 * GIB,
        memory_from="declared",
        more_bytes=4 * GIB,
        available_bytes=8 * GIB,
        back_bytes=0,
        warn_below_bytes=4 * GIB,
        promised_bytes=0,
        kept_bytes=0,
        missing_bytes=0,
    )
    assert why(WAITING).wait.memory is None


def test_the_numbers_of_a_wait_are_there_for_programs() -> None:
    wait = why(WAITING).wait

    assert (wait.reason, wait.position, wait.queued, wait.priority, wait.aged_priority, wait.waited_s) == ("waiting_for_gpu", 1, 1, 10, 8, 130.0)
    assert (wait.device, wait.need_bytes, wait.free_bytes, wait.until) == ("host", 14 * GIB, 7 * GIB, None)
    assert [(holder.owner, holder.used_bytes, holder.pid) for holder in wait.holders] == [("yolo-0", 8 * GIB, 41)]


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        ({"run_at_wall": WALL + 60}, "2027-01-15T08:01:00.000+00:00"),
        ({"retry_at_s": NOW + 12}, "2027-01-15T08:00:12.000+00:00"),
        ({"run_at_wall": WALL + 60, "held": True}, None),
    ],
)
def test_a_wait_for_a_time_says_until_when(fields: dict[str, Any], until: str | None) -> None:
    wait = why(changed(WAITING, **fields)).wait

    assert wait.until == until
    assert wait.holders == []


def test_who_is_before_it_is_named_and_not_without_end() -> None:
    others = [changed(WAITING, id=JobId(f"j-{number}"), priority=0) for number in range(5)]
    resting = [changed(WAITING, id=JobId("j-8"), priority=0, held=True), changed(WAITING, id=JobId("j-9"), priority=0, run_at_wall=WALL + 1)]

    view = why(WAITING, fleet(WAITING, *others, *resting))

    assert view.sentences[-1] == ("order: place 6 of 6, priority 10, 8 by now (0 is the most urgent), waiting for 2 min; before it j-0, j-1, j-2 and 2 more")


def program(name: str, **fields: Any) -> Waiter:
    """Return a program outside Warden that waits for the device."""
    who = Outside(ticket=Ticket(f"t-{name}"), name=name, pid=77)
    waiter = Waiter(outside=who, request="r", priority=0, need_bytes=GIB, arrived_at_s=NOW - 5, deadline_at_s=NOW + 60, timeout_s=65.0)
    return replace(waiter, **fields)


def waited_for_by(*programs: Waiter, job: Job = WAITING) -> Fleet:
    return replace(fleet(TRAINING, job), waiters={waiter.outside.ticket: waiter for waiter in programs})


def test_a_program_that_stands_before_a_job_counts_and_is_named() -> None:
    others = [program("far", device=DeviceId("card-1")), program("coming", lease=LeaseId("l-9")), program("calm", priority=20)]
    around = waited_for_by(program("mic"), *others)

    view = why(WAITING, around)

    assert view.sentences[-1] == "order: place 2 of 3, priority 10, 8 by now (0 is the most urgent), waiting for 2 min; before it mic (pid 77)"
    assert (view.wait.position, view.wait.queued) == (2, 3)
    assert positions(around, LIMITS, NOW)[WAITING.id] == position(WAITING, around, LIMITS, NOW)


def test_a_job_without_a_device_stands_behind_no_program() -> None:
    around = waited_for_by(program("mic"), job=WORD)

    assert why(WORD, around).sentences[-1].startswith("order: place 1 of 1")
    assert positions(around, LIMITS, NOW)[WORD.id] == position(WORD, around, LIMITS, NOW) == 1


def test_work_that_gives_way_says_for_whom_and_whoever_waits_for_it_hears_so() -> None:
    stop = Stop(cause=Cause.HANDOVER, reason="makes room at its next checkpoint for mic (pid 77), which is more urgent, 0 against 15", ordered_at_s=NOW - 2)
    leaving, lease = replace(BUSY, state=WorkerState.DRAINING, stop=stop), replace(HELD, state=LeaseState.YIELDING, wanted_by="t-mic")
    around = replace(fleet(TRAINING, WAITING, workers=(leaving, AWAY, FREE), leases=(lease,)), waiters={Ticket("t-mic"): program("mic")})

    running, waiting = why(TRAINING, around).sentences, why(WAITING, around).sentences

    assert f"leaving: yolo-0 is draining: {stop.reason}" in running
    assert "then: yolo-0 gives way at its next checkpoint, to mic (pid 77)" in waiting


def test_a_full_house_names_who_is_at_work() -> None:
    limits = replace(LIMITS, jobs=JobLimits(max_running=1))
    job = changed(WORD, message="1 at work already, jobs.max_running is 1")

    view = why(job, fleet(TRAINING, job), limits)

    assert view.sentences[:2] == [
        "j-7k9 waits: 1 at work already, jobs.max_running is 1.",
        f"now: yolo-0 is at j-7k2 (yolo.train, running, since 10 min): {FAR}",
    ]


def test_the_death_certificate_is_there_for_programs() -> None:
    error = why(ROWS["failed"][0], fleet()).error

    assert (error.reason, error.phase, len(error.log_tail)) == ("stalled", "train", 20)
    assert why(TRAINING).error is None
