"""Who has a file open, by /proc: for threads, since that looks at every descriptor of the machine."""

import os


def openers(path: str) -> list[int]:
    """Return the pids of those who have the file open, as far as their descriptors may be read."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _has_open(name, path)]  # noqa: PTH208  # names are all that is needed


def _has_open(pid: str, path: str) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
    except OSError:  # it is gone, or somebody else's
        return False
    return any(_is(f"/proc/{pid}/fd/{number}", path) for number in descriptors)


def _is(link: str, path: str) -> bool:
    try:
        return os.readlink(link) == path  # noqa: PTH115  # a tenth of the time of Path, thousands of times
    except OSError:  # it was closed meanwhile
        return False
