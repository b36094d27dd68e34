"""Measures what the supervisor itself costs while four workers beat once a second and nothing else happens: PSS, RSS, CPU.

Aims: 40 MiB PSS, 0.5 % of a core. Floors in the same run: a bare Python that has imported the same outside packages and sleeps, and one that also reads four
beats a second from a ROUTER socket and decides nothing. With --peers also supervisord and circus with four sleepers (they are installed into a
virtualenv of their own outside the project, which needs a package index).
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.bench._warden import arguments, environment, scratch, supervised
from tests.support.measure import MIB, cpu_s, machine, print_table, pss_bytes, rss_bytes, tree

WORKERS: Final = 4
PSS_AIM_MIB: Final = 40.0
CPU_AIM_PERCENT: Final = 0.5
SETTLE_S: Final = 3.0

TOML: Final = f"""
[workers.idle]
command = ["{{python}}", "-P", "-m", "workers.fake"]
serves = ["demo.count", "demo.other", "demo.train"]
replicas = {WORKERS}
"""

IMPORTED: Final = """
import asyncio, sqlite3, psutil, msgspec, structlog, zmq
print("ready", flush=True)
asyncio.run(asyncio.sleep(3600))
"""

LISTENING: Final = """
import asyncio, sqlite3, sys, psutil, msgspec, structlog, zmq

async def main():
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(sys.argv[1])
    loop = asyncio.get_running_loop()
    def drain():
        while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            msgspec.msgpack.decode(socket.recv_multipart()[-1])
    loop.add_reader(socket.getsockopt(zmq.FD), drain)
    print("ready", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""

BEATING: Final = """
import sys, time, msgspec, zmq
sockets = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(4)]
for socket in sockets:
    socket.connect(sys.argv[1])
print("ready", flush=True)
while True:
    for socket in sockets:
        socket.send(msgspec.msgpack.encode({"v": 1, "t": "beat", "worker": "idle-0", "generation": 1, "token": "t" * 32, "seq": 1, "jobs": []}))
        time.sleep(1 / len(sockets))
"""

SUPERVISORD: Final = """[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
[program:sleeper]
command = /bin/sleep 3600
process_name = %(program_name)s_%(process_num)s
numprocs = 4
"""

CIRCUS: Final = """[circus]
endpoint = ipc://{folder}/c1
pubsub_endpoint = ipc://{folder}/c2
[watcher:sleeper]
cmd = /bin/sleep 3600
numprocesses = 4
"""


def started(stack: ExitStack, *command: str, peer: bool = False) -> int:
    """Return the pid of a program that runs until the stack ends, once it has said that it is ready (a peer says nothing).

    A peer must not find the project: supervisord's package has the name of ours.
    """
    said = not peer
    env = {name: value for name, value in environment().items() if not (peer and name == "PYTHONPATH")}
    process = subprocess.Popen(command, env=env, cwd="/", stdout=subprocess.PIPE if said else subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()  # supervisord and circus end their sleepers
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    stack.callback(end)
    if process.stdout is not None:
        process.stdout.readline()
    return process.pid


def peers(stack: ExitStack, folder: Path) -> dict[str, int]:
    """Return the pids of supervisord and circus, each with four sleepers; of those that could be installed."""
    place = folder / "peers"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    found = {}
    if subprocess.run([*pip, "supervisor", "setuptools<81"], check=False).returncode == 0:  # its start needs pkg_resources
        file = folder / "supervisord.conf"
        file.write_text(SUPERVISORD.format(folder=folder))
        found["supervisord, 4 sleepers"] = started(stack, str(place / "bin/supervisord"), "-c", str(file), peer=True)
    if subprocess.run([*pip, "circus"], check=False).returncode == 0:
        file = folder / "circus.ini"
        file.write_text(CIRCUS.format(folder=folder))
        found["circus, 4 sleepers"] = started(stack, str(place / "bin/circusd"), str(file), peer=True)
    return found


@contextmanager
def everyone(folder: Path, *, with_peers: bool) -> Iterator[dict[str, int]]:
    """Yield the pids of all that is compared, all running at once."""
    with ExitStack() as stack:
        endpoint = f"ipc://{folder}/floor.sock"
        pids = {
            "floor: Python with the same imports": started(stack, sys.executable, "-c", IMPORTED),
            "floor: and 4 beats/s read": started(stack, sys.executable, "-c", LISTENING, endpoint),
        }
        started(stack, sys.executable, "-c", BEATING, endpoint)
        warden = stack.enter_context(supervised(TOML))
        warden.wait_ready(*(f"idle-{index}" for index in range(WORKERS)))
        pids["warden, 4 workers at 1 Hz"] = warden.pid
        pids["one of those workers (workers.fake)"] = warden.worker("idle-0").pid or 0
        yield {**pids, **(peers(stack, folder) if with_peers else {})}


def ctxt_switches(pid: int) -> int:
    """Return how often the threads of a process gave up a processor of their own will: its wake-ups."""
    found = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found += sum(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("voluntary"))
    return found


def over(window_s: float, read: Callable[[int], float], pids: list[int]) -> list[float]:
    """Return by how much each reading grows in a second."""
    before = [read(pid) for pid in pids]
    began_s = time.monotonic()
    time.sleep(window_s)  # noqa: TID251  # the window of the measurement
    took_s = time.monotonic() - began_s
    return [(read(pid) - first) / took_s for pid, first in zip(pids, before, strict=True)]


def main() -> int:
    """Print the table."""
    asked = arguments("peers")
    window_s, windows = (1.0, 1) if asked.quick else (10.0, 3)
    with scratch() as folder, everyone(folder, with_peers=asked.peers) as pids:
        time.sleep(0.0 if asked.quick else SETTLE_S)  # noqa: TID251  # what the start left to do is not idling
        wakes = {pid: ctxt_switches(pid) for pid in pids.values()}
        began_s = time.monotonic()
        cores = [over(window_s, cpu_s, list(pids.values())) for _ in range(windows)]
        took_s = time.monotonic() - began_s
        rows = []
        for place, (name, pid) in enumerate(pids.items()):
            percent = 100 * sum(window[place] for window in cores) / windows
            pss = pss_bytes(pid) / MIB
            judged = name.startswith("warden") and not asked.quick
            verdicts = ("ok" if pss < PSS_AIM_MIB else "MISSED", "ok" if percent < CPU_AIM_PERCENT else "MISSED") if judged else ("", "")
            woken = (ctxt_switches(pid) - wakes[pid]) / took_s
            rows.append((name, f"{pss:.1f}", f"{rss_bytes(pid) / MIB:.1f}", verdicts[0], f"{percent:.3f}", f"{woken:.1f}", verdicts[1]))
            assert next(tree(pid)) == pid
    print_table(
        f"idle cost over {windows} windows of {window_s:g} s (aims: {PSS_AIM_MIB:g} MiB PSS, {CPU_AIM_PERCENT:g} % of a core; {machine()})",
        ("what", "PSS MiB", "RSS MiB", "aim", "% of a core", "wake-ups/s", "aim"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
