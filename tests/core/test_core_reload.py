"""A new configuration while workers run: whom it touches, and what is kept until the last of a model is gone."""

import pytest
from msgspec.structs import replace

from supervisor.core import events as ev
from supervisor.core.actions import Spawn
from supervisor.core.decide import decide, first_fleet
from supervisor.core.limits import GIB, GpuLimits, Limits, Watchdog
from supervisor.core.model import Device, DeviceId, Wanted, WorkerName
from supervisor.core.recycle import due_at_s
from supervisor.core.reload import effective, places
from tests.support.simulated_device import HOST
from tests.support.world import World, usual_limits

LIMITS = usual_limits()


def test_replicas_have_numbers() -> None:
    more = replace(LIMITS, workers={**LIMITS.workers, "sam": replace(LIMITS.workers["sam"], replicas=2)})

    assert places(more) == {"sam-0": "sam", "sam-1": "sam", "yolo-0": "yolo"}


def test_a_model_that_was_taken_out_is_kept_while_a_worker_of_it_is_there_and_serves_nothing() -> None:
    fleet = first_fleet(LIMITS, ())
    without = Limits(workers={"yolo": LIMITS.workers["yolo"]})

    acting = effective(without, LIMITS, fleet)

    assert set(acting.workers) == {"sam", "yolo"}
    assert (acting.workers["sam"].replicas, acting.workers["sam"].serves) == (0, ())
    assert acting.model_for("sam.propagate") is None
    assert set(effective(without, acting, first_fleet(without, ())).workers) == {"yolo"}


def test_the_budget_is_the_size_of_the_host_and_of_no_other_device() -> None:
    host = Device(id=HOST, name="host", backend="host", total_bytes=16 * GIB)
    card = Device(id=DeviceId("gpu0"), name="a card", backend="nvml", total_bytes=24 * GIB)
    new = replace(LIMITS, gpu=GpuLimits(host_budget_bytes=20 * GIB))

    after = decide(first_fleet(LIMITS, (host, card)), ev.ConfigChanged(previous=LIMITS, generation=2), new, 1.0).fleet

    assert {device.id: device.total_bytes // GIB for device in after.devices.values()} == {"host": 20, "gpu0": 24}


@pytest.mark.parametrize("wanted", [Wanted.UP, Wanted.DOWN])
def test_an_order_for_a_worker_that_is_not_there_is_refused(wanted: Wanted) -> None:
    world = World()
    world.post(0, ev.WantedChanged(request="r", workers=(WorkerName("sam-0"), WorkerName("sam-7")), wanted=wanted))
    world.run(1)

    assert world.replies["r"].error == "unknown"
    assert "sam-7 is no longer in supervisor.toml" in world.replies["r"].message
    assert world.fleet.workers[WorkerName("sam-0")].wanted is Wanted.UP


def test_a_generation_is_never_used_twice_not_even_by_a_worker_that_was_taken_out_and_put_back() -> None:
    world = World()
    world.run(5)
    world.edit(replace(LIMITS, workers={"yolo": LIMITS.workers["yolo"]}))
    world.run(10)
    gone = WorkerName("sam-0") not in world.fleet.workers
    world.edit(LIMITS)
    world.run(20)

    assert gone
    assert world.fleet.workers[WorkerName("sam-0")].generation == 2


def test_a_worker_without_a_process_is_never_due() -> None:
    assert due_at_s(first_fleet(LIMITS, ()).workers[WorkerName("sam-0")], Watchdog()) is None


def test_a_worker_that_needs_no_device_any_more_is_started_without_one_though_its_old_lease_still_cools() -> None:
    world = World()
    world.run(5)
    sam = world.limits.workers["sam"]

    world.edit(replace(world.limits, workers={**world.limits.workers, "sam": replace(sam, gpu_bytes=0)}))
    world.run(20)

    spawns = [action for _, action in world.performed if isinstance(action, Spawn) and action.worker == "sam-0"]
    assert [(spawn.generation, spawn.device) for spawn in spawns] == [(1, HOST), (2, None)]
