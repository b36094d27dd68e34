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


OutOfMemoryError = type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})
OOM = OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
ASSERT = RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OOM, "gpu_oom"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 14.76 GiB total capacity)"), "gpu_oom"),
        (RuntimeError("CUDA error: out of memory"), "gpu_oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "gpu_oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "gpu_oom"),
        (because(ValueError("the batch failed"), OOM), "gpu_oom"),
        (ASSERT, "gpu_error"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "gpu_error"),
        (RuntimeError("CUDA error: unspecified launch failure"), "gpu_error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "gpu_error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), "gpu_error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "gpu_error"),
        (because(KeyError("loss"), ASSERT), "gpu_error"),
        (instead(KeyError("loss"), ASSERT), "user_error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."), "user_error"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 2x5)"), "user_error"),
        (MemoryError("CUDA out of memory"), "user_error"),
        (type("OutOfMemoryError", (RuntimeError,), {"__module__": "mine"})("no"), "user_error"),
    ],
    ids=str,
)
def test_what_a_device_did_is_named_also_where_a_library_wrapped_it(error: BaseException, reason: str) -> None:
    assert ended_by(error).reason == reason
