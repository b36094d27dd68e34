"""The front is a fresh process only for what its options hold: everything else it reads from the status."""

import pytest
from msgspec.structs import replace

from supervisor.core.limits import ApiLimits, GpuLimits, Limits
from supervisor.runtime.api_child import API, with_api

LIMITS = with_api(Limits())


@pytest.mark.parametrize(
    "gpu", [GpuLimits(vacate_timeout_s=1.0), GpuLimits(lock_timeout_s=1.0), GpuLimits(margin_bytes=1)], ids=["vacate_timeout", "lock_timeout", "margin"]
)
def test_an_edit_of_the_gpu_table_leaves_the_front_as_it_is(gpu: GpuLimits) -> None:
    # Whoever followed events lost the stream, and a training that waited for the outcome of its hand-over was answered too early.
    assert with_api(Limits(gpu=gpu)).workers[API] == LIMITS.workers[API]


def test_an_edit_of_what_the_front_was_started_with_is_a_fresh_front() -> None:
    edited = with_api(replace(Limits(), api=ApiLimits(max_upload_bytes=1)))

    assert edited.workers[API].options != LIMITS.workers[API].options
