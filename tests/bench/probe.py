"""Measures what a reading of a card costs: by the probe, with few and many processes on the card, and the look for who has its node open.

The card is the fake library of the tests, so this is the cost of Warden's own part: pynvml, the pipe, the trees. **No card was asked**: what a driver adds,
`deploy/real_card.py` shows. Floor in the same run: the same calls, made in one process.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from supervisor.adapters.nvml_device import NvmlDevice
from supervisor.adapters.openers import openers
from supervisor.adapters.probe_client import ProbeClient
from supervisor.adapters.tree_members import Owner
from supervisor.core.model import DeviceId
from tests.bench._warden import quick, scratch
from tests.support.fake_card import GIB, MIB, NEVER, FakeCards, build
from tests.support.measure import machine, print_table, pss_bytes, quantile

FLOOR = """
import os, sys, time
from supervisor.helpers import nvml
nvml.open_driver()
handle = nvml.handle_of(sys.argv[1], 0)
for _ in range(int(sys.argv[2])):
    began_s = time.perf_counter()
    nvml.reading(handle)
    print(time.perf_counter() - began_s)
"""


async def times_of(ask: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Return the seconds of each of so many questions."""
    took_s = []
    for _ in range(count):
        began_s = time.perf_counter()
        await ask()
        took_s.append(time.perf_counter() - began_s)
    return took_s


async def nobody(pids: Collection[int]) -> Mapping[int, Owner]:
    """Own no process."""
    return {pid: Owner(None, "") for pid in pids}


async def floor_of(card: str, environ: Mapping[str, str], count: int) -> list[float]:
    """Return the seconds of readings in the process that asks, apart from ours only because the library is found by its environment."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOR, card, str(count), env=dict(environ), stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return [float(line) for line in out.split()]


async def measured(folder: Path, count: int) -> tuple[dict[str, list[float]], int]:
    """Return the times of each kind of question, and the PSS of a probe."""
    cards = FakeCards(folder / "cards", build(folder / "lib"))
    card = cards.add()
    environ = {**os.environ, **cards.env}
    rows: dict[str, list[float]] = {}
    pss = 0
    for users in (0, 10, 100):
        for number in range(users):
            cards.claim(4_000_000 + number, MIB, release_s=NEVER)
        rows[f"floor: in the process itself, {users} listed"] = await floor_of(card, environ, count)
        client = ProbeClient(environ)
        rows[f"a probe's start and its first reading, {users} listed"] = await times_of(lambda client=client: client.ask(card, 0), 1)  # type: ignore[misc]
        rows[f"by the probe, {users} listed"] = await times_of(lambda client=client: client.ask(card, 0), count)  # type: ignore[misc]
        pss = pss_bytes(next(iter(client.pids())))
        await client.close()
    device = NvmlDevice(environ, owners=nobody, post=lambda _: None, nodes=str(folder / "cards" / "nvidia"))
    await device.devices()
    rows["as a device, whose 100 are included"] = await times_of(lambda: device.measure(DeviceId(card)), count)
    cards.claim(4_100_000, GIB, release_s=NEVER, listed=False)
    rows["the same, and who has the node open"] = await times_of(lambda: device.measure(DeviceId(card)), count)
    rows["of that the look alone"] = await times_of(lambda: asyncio.to_thread(openers, str(cards.node())), count)
    await device.close()
    return rows, pss


def main() -> None:
    """Print the table."""
    count = 20 if quick() else 300
    with scratch() as folder:
        rows, pss = asyncio.run(measured(folder, count))
    processes = sum(1 for path in Path("/proc").iterdir() if path.name.isdigit())
    cells = []
    for what, took_s in rows.items():
        found = (statistics.median(took_s), quantile(took_s, 0.95), max(took_s))
        cells.append((what, str(len(took_s)), *(f"{1e3 * seconds:.3f}" for seconds in found)))
    title = f"A reading of a fake card, ms (no card was asked; {processes} processes on the machine; PSS of a probe {pss / MIB:.1f} MiB)"
    print_table(title, ("what", "runs", "median", "p95", "max"), cells)
    print(machine())


if __name__ == "__main__":
    main()
