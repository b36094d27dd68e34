"""What the machine and the supervisor itself use."""

import os

import psutil

from supervisor.adapters import proc


def available_bytes() -> int:
    """Return what the machine has available. Microseconds: may be called on the loop."""
    return int(psutil.virtual_memory().available)


def own_pss_bytes() -> int:
    """Return the supervisor's own PSS. About a millisecond: may be called on the loop, on request."""
    return proc.pss_bytes(os.getpid())
