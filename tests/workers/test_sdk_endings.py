"""What each exception of the work stands for."""

import errno
import os

import pytest

from workers.endings import ended_by

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/var/jobs/j-1/last.pt")


def because(error: BaseException, first: BaseException) -> BaseException:
    """Return the error as a library raises it that says nothing of the cause."""
    error.__context__ = first
    return error


def ring() -> BaseException:
    """Return an error that is its own cause's cause, as `raise error.__cause__` makes it."""
    first, second = ValueError("first"), RuntimeError("second")
    first.__context__, second.__cause__ = second, first
    return first


def instead(error: BaseException, first: BaseException) -> BaseException:
    """Return the error as `raise error from None` makes it."""
    error.__context__, error.__suppress_context__ = first, True
    return error


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (FULL, "worker_crash", "OSError: [Errno 28] No space left on device: '/var/jobs/j-1/last.pt'; make room there"),
        (
            because(RuntimeError("writing failed"), FULL),
            "worker_crash",
            "OSError: [Errno 28] No space left on device: '/var/jobs/j-1/last.pt'; make room there",
        ),
        (OSError(errno.EACCES, "Permission denied", "x"), "user_error", "PermissionError: [Errno 13] Permission denied: 'x'"),
        (because(ValueError("no"), KeyError("k")), "user_error", "ValueError: no"),
        (instead(ValueError("no"), FULL), "user_error", "ValueError: no"),
        (ring(), "user_error", "ValueError: first"),
    ],
    ids=["a full disk", "an error because of it", "another one of the disk", "an error because of another", "an error in its place", "a ring of errors"],
)
def test_a_full_disk_is_the_machines_fault_and_another_error_the_works(error: BaseException, reason: str, message: str) -> None:
    ended = ended_by(error)

    assert (ended.reason, ended.error) == (reason, message)
    assert type(error).__name__ in ended.stack
