"""Why a job cannot be placed now, and in whose line it stands meanwhile."""

from typing import Final

from supervisor.core.admission import is_overdue
from supervisor.core.gpu import Blocked
from supervisor.core.model import DeviceId, Job, Reason
from supervisor.core.turn import Turn


class NoPlace(Blocked, frozen=True):
    """Why a job cannot be placed now. device: in whose line it stands."""

    reason: Reason = Reason.WAITING_FOR_WORKER
    device: DeviceId | None = None


NO_MEMORY: Final = NoPlace("the machine has too little memory available, memory.emergency_below says how much: nothing is started", Reason.WAITING_FOR_MEMORY)
HELD_QUEUE: Final = NoPlace("the queue is held (warden jobs release)", Reason.HELD)


def resting(job: Job, reason: Reason) -> NoPlace:
    """Return why a job does not stand in the queue at all just now. After a failure that is what went wrong, which it says already."""
    match reason:
        case Reason.HELD:
            return NoPlace(f"held since it was submitted (warden jobs start {job.id})", Reason.HELD)
        case Reason.SCHEDULED:
            return NoPlace("its time has not come", Reason.SCHEDULED)
        case _:
            return NoPlace(job.message, Reason.RETRY_BACKOFF)


def no_room(turn: Turn, job: Job, words: str, device: DeviceId | None) -> NoPlace:
    """Return why a job waits that the machine has too little memory for: it keeps nobody from the device before it has waited for as long as anybody has to."""
    return NoPlace(words, Reason.WAITING_FOR_MEMORY, device if is_overdue(turn, job) else None)
