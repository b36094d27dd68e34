"""Measures the supervisor while 100 workers beat once a second, and then while 20 other programs crash in a loop as well: its CPU, and how late its loop is.

The 100 are processes that do nothing; their sockets are held by one thread of this script, which says for each what its SDK would say (a message a second).
Lateness: the answer to a request that is served from memory, asked 50 times a second. Floor: the same request while nobody beats and nobody crashes.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Final

import zmq

from supervisor.control import Refused
from supervisor.wire import Beat, Hello, Ready, encode, routing_id
from tests.bench._blip import pause
from tests.bench._warden import Warden, arguments, scratch
from tests.support.measure import cpu_s, machine, print_table, quantile

WORKERS: Final = 100
CRASHING: Final = 20
CPU_AIM_PERCENT: Final = 4.0
LAG_AIM_MS: Final = 20.0
ASK_EVERY_S: Final = 0.02

TOML: Final = f"""
[watchdog]
backoff_first = "100ms"
backoff_max = "1s"
quarantine_after = 1000000
[workers.beating]
command = ["sh", "-c", 'echo "$WARDEN_WORKER $WARDEN_GENERATION $WARDEN_TOKEN" >> {{state_dir}}/tokens; exec sleep 3600']
replicas = {WORKERS}
autostart = false
[workers.crashing]
command = ["sh", "-c", "exit 3"]
progress = "none"
replicas = {CRASHING}
autostart = false
"""


class Hearts(threading.Thread):
    """Beats for all workers whose tokens were written down."""

    def __init__(self, warden: Warden, tokens: list[list[str]]) -> None:
        """Prepare; `start` begins."""
        super().__init__(daemon=True)
        self.finished = threading.Event()
        self._endpoint = warden.endpoint.replace("control.sock", "workers.sock")
        self._tokens = tokens

    def run(self) -> None:
        """Say hello and ready for each, then a beat for each every second, evenly spread."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        links = []
        for worker, number, token in self._tokens:
            generation = int(number)
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.ROUTING_ID, routing_id(worker, generation, token))
            socket.connect(self._endpoint)
            links.append((socket, worker, generation, token))
            socket.send(encode(Hello(worker=worker, generation=generation, token=token, pid=1)))
            socket.send(encode(Ready(worker=worker, generation=generation, token=token)))
        seq, began_s = 0, time.monotonic()
        while not self.finished.is_set():
            for place, (socket, worker, generation, token) in enumerate(links):
                due_s = began_s + seq + place / len(links)
                self.finished.wait(max(0.0, due_s - time.monotonic()))
                socket.send(encode(Beat(worker=worker, generation=generation, token=token, seq=seq)))
                while socket.poll(0):
                    socket.recv()
            seq += 1
        for socket, *_ in links:
            socket.close()
        context.term()


def measured(warden: Warden, window_s: float) -> tuple[float, list[float]]:
    """Return the supervisor's share of a core in percent, and what the answers took, in ms."""
    took = []
    used_s, began_s = cpu_s(warden.pid), time.monotonic()
    while time.monotonic() < began_s + window_s:
        asked_s = time.monotonic()
        try:
            warden.ask("workers.start", name="nobody")
        except Refused:
            took.append(1000 * (time.monotonic() - asked_s))
        pause(max(0.0, asked_s + ASK_EVERY_S - time.monotonic()))
    return 100 * (cpu_s(warden.pid) - used_s) / (time.monotonic() - began_s), took


def quiet(warden: Warden, window_s: float) -> float:
    """Return the supervisor's share of a core in percent, without asking it anything."""
    used_s, began_s = cpu_s(warden.pid), time.monotonic()
    pause(window_s)
    return 100 * (cpu_s(warden.pid) - used_s) / (time.monotonic() - began_s)


def tokens_of(folder: Path) -> list[list[str]]:
    """Return (worker, generation, token) of all workers once all are there."""
    file = folder / "var" / "tokens"
    end_s = time.monotonic() + 60.0
    while not file.exists() or len(found := file.read_text().splitlines()) < WORKERS:
        if time.monotonic() > end_s:
            raise RuntimeError(f"not all {WORKERS} workers wrote into {file} within a minute")
        pause(0.05)
    return [line.split() for line in found]


def main() -> int:
    """Print the table."""
    asked = arguments()
    window_s = 3.0 if asked.quick else 20.0
    with scratch() as folder:
        warden = Warden(folder, TOML)
        try:
            warden.wait_ready()
            pause(2.0)
            rows = [("nobody beats", quiet(warden, window_s), measured(warden, window_s)[1])]
            warden.ask("workers.start", name="beating")
            hearts = Hearts(warden, tokens_of(folder))
            hearts.start()
            warden.wait_ready(*(f"beating-{place}" for place in range(WORKERS)))
            pause(2.0)
            rows.append((f"{WORKERS} beat at 1 Hz", quiet(warden, window_s), measured(warden, window_s)[1]))
            warden.ask("workers.start", name="crashing")
            pause(2.0)
            before = _crashes(warden)
            rows.append((f"and {CRASHING} crash in a loop", quiet(warden, window_s), measured(warden, window_s)[1]))
            rate = (_crashes(warden) - before) / (2 * window_s)
            silent = [worker.name for worker in warden.status().workers if worker.model == "beating" and worker.generation > 1]
            hearts.finished.set()
            hearts.join()
        finally:
            warden.stop()
    table = [_row(name, percent, took, judged=not asked.quick) for name, percent, took in rows]
    title = f"beats over {window_s:g} s (aims: {CPU_AIM_PERCENT:g} % of a core with {WORKERS}, p99 {LAG_AIM_MS:g} ms always; {machine()})"
    print_table(title, ("what", "% of a core", "aim", "answer ms", "p99", "max", "aim"), table)
    print(f"{rate:.1f} crashes a second; workers that were lost meanwhile: {len(silent)}")
    return 0


def _crashes(warden: Warden) -> int:
    return sum(worker.generation for worker in warden.status().workers if worker.model == "crashing")


def _row(name: str, percent: float, took: list[float], *, judged: bool) -> tuple[str, ...]:
    late_ms = quantile(took, 0.99)
    cpu = ("ok" if percent < CPU_AIM_PERCENT else "MISSED") if judged and name.endswith("Hz") else ""
    lag = ("ok" if late_ms < LAG_AIM_MS else "MISSED") if judged else ""
    return (name, f"{percent:.2f}", cpu, f"{quantile(took, 0.5):.2f}", f"{late_ms:.2f}", f"{max(took):.2f}", lag)


if __name__ == "__main__":
    sys.exit(main())
