"""Who leaves so that a newcomer fits beside the others: sums of bytes and a choice, nothing else. `sharing` makes the sums of the fleet."""

from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct

from supervisor.core.limits import MIB
from supervisor.core.names import LeaseId

HEADROOM_BYTES: Final = 256 * MIB
_OVER_THE_PEAK: Final = (11, 10)
_AFTER_OOM: Final = (5, 4)

Harm = tuple[int, int]
"""How much is lost when somebody leaves, the least first: nothing by one who leaves already, then idle ones, then those at work; the more urgent later."""

NONE_LOST: Final[Harm] = (0, 0)


class Share(Struct, frozen=True, kw_only=True):
    """What a lease has of its device. harm: None for one that stays whoever comes."""

    lease: LeaseId
    who: str
    booked_bytes: int
    harm: Harm | None


class Books(Struct, frozen=True, kw_only=True):
    """A device as a newcomer finds it. room_bytes: what there is for all leases together, the margin and what strangers use taken off."""

    need_bytes: int
    room_bytes: int
    booked: dict[LeaseId, int]


def learned_bytes(peak_bytes: int) -> int:
    """Return what to book for work that was seen to use so much: a tenth and 256 MiB more. Nothing for work that was never seen."""
    more, of = _OVER_THE_PEAK
    return peak_bytes * more // of + HEADROOM_BYTES if peak_bytes else 0


def raised_bytes(given_bytes: int) -> int:
    """Return what work is taken to need that found so much too little: a quarter more."""
    more, of = _AFTER_OOM
    return given_bytes * more // of


def leavers(shares: Collection[Share], need_bytes: int, room_bytes: int) -> tuple[Share, ...] | None:
    """Return who has to leave before a need fits, or None where it does not fit beside those who stay.

    Nobody leaves whom it fits beside. The least harmful go first; among equals the smallest that is enough alone, else the largest.
    """
    short_bytes = need_bytes + _sum(shares) - room_bytes
    left = [share for share in shares if share.harm is not None]
    if short_bytes > _sum(left):
        return None
    taken: list[Share] = []
    while (open_bytes := short_bytes - _sum(taken)) > 0:
        least = min(share.harm for share in left if share.harm is not None)
        equals = [share for share in left if share.harm == least]
        enough = [share for share in equals if share.booked_bytes >= open_bytes]
        chosen = min(enough, key=_size) if enough else max(equals, key=_size)
        taken.append(chosen)
        left.remove(chosen)
    for share in sorted(taken, key=lambda share: (share.harm or NONE_LOST, share.booked_bytes), reverse=True):
        if _sum(taken) - share.booked_bytes >= short_bytes:  # one that was taken later made it needless
            taken.remove(share)
    return tuple(taken)


def _size(share: Share) -> tuple[int, str]:
    return share.booked_bytes, share.lease


def _sum(shares: Iterable[Share]) -> int:
    return sum(share.booked_bytes for share in shares)
