"""A number between 0 and 1 that belongs to a name: what must not happen to all at once is spread by it, and a decision still replays."""

import hashlib


def spread(name: str) -> float:
    """Return 0 to 1, the same for the same name."""
    # Not a checksum: those of "sam-0#1" and "sam-1#1" lie close together.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) / 0xFFFFFFFF
