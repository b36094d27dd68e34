"""Measures the lock on a device, on a fake card under the real pynvml: a grant, one whose owner was killed, the verdict after memory came back, 1,000 waiters.

Floors in the same run: the bare round trip of the control socket; the driver read without a probe; a copy of a dictionary of so many waiters. Peers: flock, and
a key in Redis where there is a redis-server; neither measures anything. Aims: owner killed -> next granted 50 ms beyond an uncontended grant, which is the
verification; granted at most 150 ms after the memory is back, whenever it comes; every one of 1,000 waiters served.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from typing import Any, Final
from uuid import uuid4

import msgspec
import zmq

from supervisor.adapters.probe_client import ProbeClient
from supervisor.control import Answer, Request
from supervisor.core import events as ev
from supervisor.core.decide import decide
from supervisor.core.limits import GIB
from tests.bench._locks import NEED, FileLock, RedisLock, WardenLock, closing
from tests.bench._queues import redis
from tests.bench._warden import Warden, environment, quick, scratch, supervised
from tests.support.fake_card import NEVER, FakeCards, build
from tests.support.measure import MIB, cpu_s, machine, print_table, pss_bytes, quantile, tree_cpu_s
from tests.support.world import WALL_S, World, usual_limits

KILLED_AIM_MS: Final = 50.0
VERDICT_AIM_MS: Final = 150.0
PROOF_MS: Final = 100.0
SETTLE_S: Final = 0.3
ANSWER_S: Final = 120_000

TOML: Final = """
[gpu]
backend = "nvml"
lock_timeout = "1h"
[workers.away]
command = ["{python}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
autostart = false
"""

READER: Final = """
import sys, time
from supervisor.helpers import nvml
nvml.open_driver()
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    nvml.reading(sys.argv[1])
    print(1000 * (time.perf_counter() - began))
"""

Locks = Sequence[WardenLock | FileLock | RedisLock]


def ms_of(call: Callable[[], Any]) -> float:
    """Return what one call took, in ms."""
    began_s = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began_s)


def row(what: str, took_ms: Sequence[float], floor_ms: float, says: str = "") -> tuple[str, ...]:
    """Return one row of a table."""
    middle = statistics.median(took_ms)
    return (what, f"{middle:.3g}", f"{quantile(took_ms, 0.99):.3g}", f"{max(took_ms):.3g}", f"{middle / floor_ms:.3g}", says)


def aim(took_ms: Sequence[float], at_most_ms: float) -> str:
    """Return whether the median keeps to an aim."""
    return f"{at_most_ms:g}: {'ok' if statistics.median(took_ms) <= at_most_ms else 'MISSED'}"


def grants(warden: Warden, locks: Locks, count: int) -> float:
    """Print what it takes to get a lock that nobody has, and one whose owner is killed; return the median ms of Warden's grant."""
    job = warden.submit("demo.count", {})
    floor = [ms_of(lambda: warden.ask("jobs.show", job=job)) for _ in range(5 * count)]
    took: dict[str, list[float]] = {lock.name: [] for lock in locks}
    for _ in range(count):  # in turns: what disturbs one disturbs all
        for lock in locks:
            took[lock.name].append(ms_of(lock.take))
            lock.give()
    bare = statistics.median(floor)
    print_table(
        f"nobody has it: lock -> answer, ms ({count} each, in turns; {machine()})",
        ("what", "median", "p99", "max", "x floor", "what is proved when it is granted"),
        [
            row("floor: a round trip of the control socket", floor, bare),
            *(row(lock.name, took[lock.name], bare, lock.proof) for lock in locks),
            row(f"warden, less the {PROOF_MS:g} ms between its two readings", [ms - PROOF_MS for ms in took["warden"]], bare),
        ],
    )
    granted = statistics.median(took["warden"])
    handed: dict[str, list[float]] = {lock.name: [passed_on(lock) for _ in range(max(2, count // 2))] for lock in locks}
    beyond = [ms - granted for ms in handed["warden"]]
    floor_ms = statistics.median(handed["flock"])
    print_table(
        f"its owner is killed -> the next one has it, ms ({max(2, count // 2)} each; {machine()})",
        ("what", "median", "p99", "max", "x floor", "aim"),
        [
            row("floor: flock", handed["flock"], floor_ms),
            *(row(lock.name, handed[lock.name], floor_ms) for lock in locks if lock.name != "flock"),
            row("warden, less an uncontended grant", beyond, floor_ms, aim(beyond, KILLED_AIM_MS)),
        ],
    )
    return granted


def passed_on(lock: WardenLock | FileLock | RedisLock) -> float:
    """Return the ms from the kill of an owner until whoever waits has the lock."""
    kill = lock.held_by_another()
    with ThreadPoolExecutor(1) as pool:

        def wait() -> float:
            lock.take()
            return time.monotonic()

        waiting = pool.submit(wait)
        time.sleep(SETTLE_S)  # noqa: TID251  # it waits by then; a flock tells nobody
        killed_at_s = kill()
        took_ms = 1000 * (waiting.result() - killed_at_s)
    lock.give()
    return took_ms


def verdicts(lock: WardenLock, cards: FakeCards, waits_s: Sequence[float]) -> None:
    """Print how long after memory came back a grant is answered, wherever between two polls that was, and what the wait costs."""
    took: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        for wait_s in waits_s:
            cards.claim(os.getpid(), 12 * GIB, name="gone", release_s=NEVER, listed=False)

            def ask() -> float:
                lock.take()
                return time.monotonic()

            waiting = pool.submit(ask)
            time.sleep(wait_s)  # noqa: TID251  # what is measured begins in the middle of a pause between two polls
            cards.take("0/claims/gone")
            back_at_s = time.monotonic()
            took.append(1000 * (waiting.result() - back_at_s))
            lock.give()
    print_table(
        f"memory is back -> the grant is answered, ms ({len(waits_s)} times, {waits_s[0]:.1f} to {waits_s[-1]:.1f} s after the question; {machine()})",
        ("what", "median", "p99", "max", "x floor", "aim"),
        [("floor: the pause between the two readings", f"{PROOF_MS:g}", "", "", "1", ""), row("warden", took, PROOF_MS, aim(took, VERDICT_AIM_MS))],
    )


def readings(warden: Warden, cards: FakeCards, count: int, wait_s: float) -> None:
    """Print what one reading costs, and what a hand-over that waits does."""
    card = warden.status().devices[0].id
    env = {**environment(), **cards.env}
    alone = subprocess.run([sys.executable, "-c", READER, card, str(count)], env=env, capture_output=True, text=True, check=True).stdout.split()

    async def probed() -> list[float]:
        client = ProbeClient(env)
        took = []
        for _ in range(count):
            began_s = time.perf_counter()
            await client.ask(card)
            took.append(1000 * (time.perf_counter() - began_s))
        await client.close()
        return took[1:]

    direct = list(map(float, alone))
    floor = statistics.median(direct)
    print_table(
        f"one reading of the card, ms ({count} each; {machine()})",
        ("what", "median", "p99", "max", "x floor", ""),
        [row("floor: the driver itself (a fake one)", direct, floor), row("asked of a probe", asyncio.run(probed()), floor)],
    )
    idle = load(warden, wait_s)
    cards.claim(os.getpid(), 12 * GIB, name="gone", release_s=NEVER, listed=False)
    lock = WardenLock(warden)
    with closing(lock), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock.take)
        waits = load(warden, wait_s)
        cards.take("0/claims/gone")
        waiting.result()
        lock.give()
    print_table(
        f"% of a core ({wait_s:g} s each; {machine()})",
        ("what", "supervisor", "its probe"),
        [(what, f"{own:.1f}", f"{probe:.1f}") for what, (own, probe) in (("nobody waits", idle), ("a hand-over waits for memory", waits))],
    )


def load(warden: Warden, for_s: float) -> tuple[float, float]:
    """Return what the supervisor and its probe use for so long, in percent of a core."""
    own_s, all_s = cpu_s(warden.pid), tree_cpu_s(warden.pid)
    time.sleep(for_s)  # noqa: TID251  # the time over which is measured
    own_s, all_s = cpu_s(warden.pid) - own_s, tree_cpu_s(warden.pid) - all_s
    return 100 * own_s / for_s, 100 * (all_s - own_s) / for_s


def crowd(warden: Warden, count: int, granted_ms: float) -> None:
    """Print what so many waiters cost, and that each is served."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    line = context.socket(zmq.DEALER)
    line.set_hwm(0)
    line.connect(warden.endpoint)
    before, own_s, began_s = pss_bytes(warden.pid), cpu_s(warden.pid), time.perf_counter()

    def send(op: str, **args: Any) -> None:
        line.send(msgspec.json.encode(Request(id=uuid4().hex, op=op, args=args, by="bench")))

    for number in range(count):
        send("gpu.lock", owner=f"p{number}", need=NEED, ttl_s=3600.0)
    while len((device := warden.status().devices[0]).waiters) + len(device.holders) < count:
        time.sleep(SETTLE_S)  # noqa: TID251  # a status of so many costs: it is not asked without a pause
    taken_in_s = time.perf_counter() - began_s
    status = [ms_of(warden.status) for _ in range(5)]
    after, served_at = pss_bytes(warden.pid), [time.perf_counter()]
    served = 0
    while served < count:
        if not line.poll(ANSWER_S):
            raise RuntimeError(f"{served} of {count} waiters were served, and then none for {ANSWER_S / 1000:g} s")
        answer = msgspec.json.decode(line.recv(), type=Answer)
        if answer.error is not None:
            raise RuntimeError(f"a waiter was refused: {answer.error.message}")
        lease: Any = answer.data
        if lease.get("granted"):
            served += 1
            served_at.append(time.perf_counter())
            send("gpu.unlock", lease=lease["lease"], fence=lease["fence"])
    took_s = served_at[-1] - began_s
    used_s = cpu_s(warden.pid) - own_s
    line.close(0)
    context.term()
    turns = [1000 * (later - earlier) for earlier, later in pairwise(served_at[1:])]
    print_table(
        f"{count} wait at once ({machine()})",
        ("what", "measured"),
        [
            ("served", f"{served} of {count}"),
            ("all are in line after, s", f"{taken_in_s:.2f}"),
            ("memory for each, KiB", f"{(after - before) / count / 1024:.1f}"),
            ("supervisor, MiB PSS before and with all of them", f"{before / MIB:.1f}, {after / MIB:.1f}"),
            ("a status meanwhile, ms, median", f"{statistics.median(status):.0f}"),
            ("from one to the next, ms: median, max", f"{statistics.median(turns):.0f}, {max(turns):.0f}"),
            ("the same in uncontended grants", f"{statistics.median(turns) / granted_ms:.2f}"),
            ("all served after, s", f"{took_s:.1f}"),
            ("CPU of the supervisor for each, ms", f"{1000 * used_s / count:.1f}"),
        ],
    )


def turns(count: int, rounds: int) -> None:
    """Print what a decision costs while so many wait."""
    limits = usual_limits()
    world = World(limits=limits)
    world.run(5.0)
    for number in range(count):
        world.lock(f"t-{number}", 8 * GIB, timeout_s=3600.0, ttl_s=3600.0)
    world.run(20.0)
    fleet, now_s = world.fleet, world.now_s
    sample = world.device.measure(limits.gpu.host_budget_bytes)
    events: dict[str, ev.AnyEvent] = {"a tick": ev.Tick(wall_s=WALL_S + now_s), "a reading": sample}
    copy = [ms_of(lambda: {**fleet.waiters}) for _ in range(rounds)]
    floor = statistics.median(copy)
    print_table(
        f"one decision with {len(fleet.waiters)} in line, ms ({rounds} each; {machine()})",
        ("what", "median", "p99", "max", "x floor", ""),
        [
            row("floor: a copy of the dictionary of waiters", copy, floor),
            *(row(what, [ms_of(partial(decide, fleet, event, limits, now_s)) for _ in range(rounds)], floor) for what, event in events.items()),
        ],
    )


def main() -> int:
    """Print the tables."""
    count, waits_s, waiters, wait_s = (3, (0.3, 0.7), 20, 0.5) if quick() else (40, tuple(0.3 + 0.62 * step for step in range(15)), 1000, 10.0)
    turns(waiters, 50)
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        cards = FakeCards(folder / "cards", build(folder / "lib"))
        cards.add()
        warden = stack.enter_context(supervised(TOML, env=cards.env))
        warden.wait_ready()
        locks: list[WardenLock | FileLock | RedisLock] = [WardenLock(warden), FileLock(folder / "lock")]
        url = stack.enter_context(redis(folder, "everysec"))
        locks += [RedisLock(url)] if url is not None else []
        stack.enter_context(closing(*locks))
        granted_ms = grants(warden, locks, count)
        own = WardenLock(warden)
        stack.enter_context(closing(own))
        verdicts(own, cards, waits_s)
        readings(warden, cards, 20 if quick() else 300, wait_s)
        crowd(warden, waiters, granted_ms)
    return 0


if __name__ == "__main__":
    sys.exit(main())
