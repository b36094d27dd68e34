"""Waits without an end over two and three devices, each refused with its whole way; what only looks like one waits."""

import pytest
from msgspec.structs import replace

from supervisor.core.actions import Reply
from supervisor.core.decide import decide
from supervisor.core.events import LockRequested
from supervisor.core.limits import GIB, Limits
from supervisor.core.model import (
    Device,
    DeviceId,
    Fleet,
    Lease,
    LeaseId,
    LeaseState,
    Outside,
    Process,
    Ticket,
    Waiter,
    Worker,
    WorkerName,
    WorkerState,
)

NAMES = ("GPU-0", "GPU-1", "GPU-2")


def who(name: str, pid: int) -> Outside:
    return Outside(ticket=Ticket(f"t-{name}-{pid}"), name=name, pid=pid, start_ticks=pid, boot_id="b", ttl_s=0.0 if pid else 60.0)


def holds(place: int, owner: Outside | WorkerName, state: LeaseState = LeaseState.HELD) -> Lease:
    mine = {"outside": owner} if isinstance(owner, Outside) else {"worker": owner}
    return Lease(id=LeaseId(f"l-{place}"), device=DeviceId(NAMES[place]), need_bytes=GIB, priority=15, state=state, since_s=0.0, fence=place + 1, **mine)


def waits(place: int, owner: Outside, *kin: int) -> Waiter:
    pids = tuple(pid for pid in (owner.pid, *kin) if pid)
    other = Outside(ticket=Ticket(f"w-{owner.name}-{place}"), name=owner.name, pid=owner.pid, ttl_s=owner.ttl_s)
    return Waiter(
        outside=other, request="w", priority=15, need_bytes=GIB, arrived_at_s=0.0, deadline_at_s=99.0, timeout_s=99.0, device=DeviceId(NAMES[place]), kin=pids
    )


def answered(leases: list[Lease], waiters: list[Waiter], asks: Outside, place: int | None, *kin: int) -> str:
    """Return what somebody who asks for a device is refused with; empty where it waits."""
    sam = Worker(name=WorkerName("sam-0"), model="sam", state=WorkerState.READY, process=Process(spawned_at_s=0.0, pid=500))
    fleet = Fleet(
        workers={sam.name: sam} if any(lease.worker for lease in leases) else {},
        devices={DeviceId(name): Device(id=DeviceId(name), name=name, backend="nvml", total_bytes=16 * GIB) for name in NAMES},
        leases={lease.id: lease for lease in leases},
        waiters={waiter.outside.ticket: waiter for waiter in waiters},
    )
    pids = tuple(pid for pid in (asks.pid, *kin) if pid)
    asks = replace(asks, ticket=Ticket("t-asks"))
    event = LockRequested(
        request="asked", outside=asks, priority=15, need_bytes=GIB, timeout_s=60.0, device=None if place is None else DeviceId(NAMES[place]), kin=pids
    )
    replies = [action for action in decide(fleet, event, Limits(), 1.0).actions if isinstance(action, Reply) and action.request == "asked"]
    return replies[0].message if replies and replies[0].error == "conflict" else ""


A, B, C, FAR = who("a", 10), who("b", 20), who("c", 30), who("far", 0)


@pytest.mark.parametrize(
    ("case", "leases", "waiters", "asks", "words"),
    [
        ("two over two", [holds(0, A), holds(1, B)], [waits(1, A)], (B, 0), "a (pid 10) holds GPU-0 and waits for GPU-1; b (pid 20) holds GPU-1 itself"),
        (
            "three over three",
            [holds(0, A), holds(1, B), holds(2, C)],
            [waits(1, A), waits(2, B)],
            (C, 0),
            "a (pid 10) holds GPU-0 and waits for GPU-1; b (pid 20) holds GPU-1 and waits for GPU-2; c (pid 30) holds GPU-2 itself",
        ),
        ("a child waits for its parent", [holds(0, A), holds(1, B)], [waits(1, who("a2", 11), 10)], (B, 0), "a (pid 10) holds GPU-0 and waits for GPU-1"),
        (
            "a child asks for its parent",
            [holds(0, A), holds(1, B)],
            [waits(1, A)],
            (who("b2", 21), 0, 20),
            "a (pid 10) holds GPU-0 and waits for GPU-1; b (pid 20) holds GPU-1",
        ),
        ("what a worker started", [holds(0, WorkerName("sam-0")), holds(1, B)], [waits(1, C, 500)], (B, 0), "sam-0 holds GPU-0 and waits for GPU-1"),
        ("one that does not renew", [holds(0, A, LeaseState.STALE), holds(1, B)], [waits(1, A)], (B, 0), "a (pid 10) holds GPU-0 and waits for GPU-1"),
    ],
)
def test_a_circle_is_refused_with_its_whole_way(
    case: str, leases: list[Lease], waiters: list[Waiter], asks: tuple[Outside, int, int] | tuple[Outside, int], words: str
) -> None:
    refused = answered(leases, waiters, asks[0], *asks[1:])

    assert refused.startswith(words), (case, refused)
    assert refused.endswith("it would wait on itself")


@pytest.mark.parametrize(
    ("case", "leases", "waiters", "asks"),
    [
        ("the one ahead waits for nobody", [holds(0, A), holds(1, B)], [], (B, 0)),
        ("the one ahead waits for somebody else", [holds(0, A), holds(1, B), holds(2, C)], [waits(2, A)], (B, 0)),
        ("its lease is over already", [holds(0, A, LeaseState.COOLING), holds(1, B)], [waits(1, A)], (B, 0)),
        ("others wait on each other, and it is no part of that", [holds(0, A), holds(1, B)], [waits(1, A), waits(0, B)], (C, 0)),
    ],
)
def test_what_ends_by_itself_waits(case: str, leases: list[Lease], waiters: list[Waiter], asks: tuple[Outside, int]) -> None:
    assert answered(leases, waiters, *asks) == "", case


def test_whoever_would_take_any_device_waits_where_one_of_them_comes_back_to_others_alone() -> None:
    around = [holds(0, A), holds(1, B)], [waits(1, A)]

    assert answered(*around, B, None) == ""
    assert answered([*around[0], holds(2, A)], around[1], B, None).endswith("it would wait on itself")
