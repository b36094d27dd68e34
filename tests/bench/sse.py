"""Measures the events on their way to a browser, what a crowd of clients costs the supervisor, and the masks of a frame over HTTP.

The way: the work stamps each progress with the clock of this machine, a follower of /v1/events compares at its arrival; 0.3 s lie between two. Aim: p50 20 ms.
The crowd: 200 followers and 500 requests a second for the status, from a process of its own, while four workers beat once a second and a job tells of
its progress. The supervisor's loop is asked from outside, 50 times a second, through the control socket: aim p99 20 ms, and no beat later than 0.25 s.
Floor: nobody is there. The rate is what was really reached: front, crowd and supervisor share the cores.
Masks: POST /frame-masks of a 1280x720 frame with two objects. Aim 20 KB on the wire. Floor: GET /healthz, which reads nothing.
"""

import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct

from supervisor.control import Refused
from tests.bench._blip import pause
from tests.bench._crowd import Crowd, Heard
from tests.bench._warden import Warden, arguments, supervised
from tests.bench.masks import AIM_BYTES, HEIGHT, WIDTH, frayed, outlines
from tests.support.measure import cpu_s, machine, print_table, quantile, tree
from workers import masks

WAY_AIM_MS: Final = 20.0
LAG_AIM_MS: Final = 20.0
LATE_S: Final = 1.25
"""A beat comes every second."""
WORKERS: Final = 4
FOLLOWERS: Final = 200
RATE: Final = 500.0
ASK_EVERY_S: Final = 0.02
LOOK_EVERY_S: Final = 0.25
REST_S: Final = 0.3

TOML: Final = f"""
[workers.stamping]
command = ["{{python}}", "-P", "-m", "tests.bench._stamping"]
serves = ["bench.stamp", "sam.propagate"]
replicas = {WORKERS}
"""


class Seen(Struct, frozen=True, kw_only=True):
    """The supervisor over one window. silent_s: of each worker at each look."""

    asked_ms: list[float]
    loop_ms: list[float]
    silent_s: list[float]
    dropped: int
    cpu: float
    front_cpu: float


def watched(warden: Warden, window_s: float) -> Seen:
    """Return what was seen of the supervisor meanwhile."""
    asked, loop, silent = [], [], []
    before, front = warden.status().supervisor.dropped_messages, front_pid(warden)
    used_s, front_s, began_s = cpu_s(warden.pid), cpu_s(front), time.monotonic()
    look_s = began_s
    while (now_s := time.monotonic()) < began_s + window_s:
        if now_s >= look_s:
            status = warden.status()
            loop.append(status.supervisor.loop_lag_ms)
            silent += [worker.silent_s for worker in status.workers if worker.silent_s is not None and worker.model == "stamping"]
            look_s = now_s + LOOK_EVERY_S
        asked_s = time.monotonic()
        try:
            warden.ask("workers.start", name="nobody")
        except Refused:
            asked.append(1000 * (time.monotonic() - asked_s))
        pause(max(0.0, asked_s + ASK_EVERY_S - time.monotonic()))
    took_s = time.monotonic() - began_s
    dropped = warden.status().supervisor.dropped_messages - before
    used = (cpu_s(warden.pid) - used_s) / took_s, (cpu_s(front) - front_s) / took_s
    return Seen(asked_ms=asked, loop_ms=loop, silent_s=silent, dropped=dropped, cpu=100 * used[0], front_cpu=100 * used[1])


def front_pid(warden: Warden) -> int:
    """Return the process that serves HTTP."""
    return next(pid for pid in tree(warden.pid) if b"supervisor.front" in Path(f"/proc/{pid}/cmdline").read_bytes())


def port_of(warden: Warden) -> int:
    """Return the port, once HTTP is answered there."""
    port = urlsplit(warden.status().supervisor.api).port or 0
    end_s = time.monotonic() + 60.0
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == http.client.OK:
                return port
        except OSError:
            pass
        if time.monotonic() > end_s:
            raise RuntimeError(f"nothing answers at port {port} within a minute")
        pause(0.1)


def ways(warden: Warden, port: int, times: int) -> list[float]:
    """Return how long each progress was on its way to a lone follower, in ms."""
    crowd = Crowd(port, followers=1, rate=0.0)
    warden.finished(warden.submit("bench.stamp", {"times": times, "rest_s": REST_S}), look_s=0.1)
    pause(0.2)
    return crowd.end().way_ms


def crowded(warden: Warden, port: int, window_s: float, *, followers: int, rate: float) -> tuple[Seen, Heard | None]:
    """Return what was seen while so many followed and asked, and a job told of its progress."""
    crowd = Crowd(port, followers=followers, rate=rate) if followers or rate else None
    job = warden.submit("bench.stamp", {"times": int(window_s / REST_S) + 100, "rest_s": REST_S})
    pause(1.0)
    seen = watched(warden, window_s)
    warden.ask("jobs.cancel", job=job)
    return seen, crowd.end() if crowd else None


def frames(warden: Warden, port: int, rounds: int) -> list[tuple[str, ...]]:
    """Return the rows of the masks."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    video = warden.folder / "var" / "film.mp4"
    video.write_bytes(b"film")
    session = asked(link, "POST", "/sessions", {"path": str(video)})[0]["session_id"]
    asked(link, "POST", f"/sessions/{session}/prompts", {"prompts": [{"frame": 0, "object": 1, "points": [[1, 2]]}]})
    job = asked(link, "POST", "/propagate", {"session_id": session})[0]["job_id"]
    folder = Path(warden.finished(job).dir) / "masks"
    folder.mkdir()
    floor = timed(lambda: asked(link, "GET", "/healthz"), rounds)
    rows: list[tuple[str, ...]] = [("floor: GET /healthz", f"{floor[0]:.1f}", f"{floor[1]:.1f}", "", "")]
    for number, (name, objects) in enumerate({"two men, outlined by hand": outlines(), "two men, frayed edges": frayed(outlines())}.items()):
        masks.save_frame(folder, number, size=(HEIGHT, WIDTH), objects=objects)
        body = {"session_id": session, "frame_idx": number}
        for coding in ("identity", "gzip"):
            call = partial(asked, link, "POST", "/frame-masks", body, headers={"Accept-Encoding": coding})
            size = call()[1]
            p50, p99 = timed(call, rounds)
            rows.append((f"{name}, {coding}", f"{p50:.1f}", f"{p99:.1f}", f"{size:,}", "ok" if size <= AIM_BYTES else "MISSED"))
    link.close()
    return rows


def asked(link: http.client.HTTPConnection, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> tuple[Any, int]:
    """Return the answer (None where it is compressed), and its bytes on the wire without the head. Raises RuntimeError for a no."""
    data = None if body is None else json.dumps(body)
    link.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
    response = link.getresponse()
    got = response.read()
    if response.status >= http.client.BAD_REQUEST:
        raise RuntimeError(f"{method} {path}: {response.status} {got.decode(errors='replace')[:500]}")
    return None if response.headers.get("Content-Encoding") else json.loads(got), len(got)


def timed(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return p50 and p99, in ms."""
    took = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - began_s))
    return statistics.median(took), quantile(took, 0.99)


def main() -> int:
    """Print the tables."""
    quick = arguments().quick
    times, window_s, rounds = (5, 3.0, 20) if quick else (100, 20.0, 300)
    with supervised(TOML, api="127.0.0.1:0") as warden:
        warden.wait_ready(*(f"stamping-{place}" for place in range(WORKERS)))
        port = port_of(warden)
        alone = ways(warden, port, times)
        crowds = [
            ("floor: nobody watches", crowded(warden, port, window_s, followers=0, rate=0.0)),
            (f"{FOLLOWERS} follow", crowded(warden, port, window_s, followers=FOLLOWERS, rate=0.0)),
            (f"{FOLLOWERS} follow, statuses asked", crowded(warden, port, window_s, followers=FOLLOWERS, rate=RATE)),
        ]
        rows = frames(warden, port, rounds)
    title = f"from report.progress to a follower, ms (aim p50 {WAY_AIM_MS:g} for a lone one; {machine()})"
    told = [("one follower", alone), *((name, heard.way_ms) for name, (_, heard) in crowds if heard is not None)]
    print_table(title, ("who", "arrivals", "p50", "p99", "max", "aim"), [_way(name, ms, judged=not quick and name == "one follower") for name, ms in told])
    title = f"the supervisor meanwhile, {window_s:g} s each ({WORKERS} workers beat; aims: p99 {LAG_AIM_MS:g} ms, no beat late; {machine()})"
    columns = (
        "clients",
        "rate",
        "status p50 ms",
        "p99",
        "loop p50 ms",
        "p99",
        "max",
        "aim",
        "own lag max",
        "silent max s",
        "late",
        "lost",
        "% core",
        "front %",
    )
    print_table(title, columns, [_load(name, seen, heard, judged=not quick) for name, (seen, heard) in crowds])
    print_table(f"POST /frame-masks, {WIDTH}x{HEIGHT}, two objects, {rounds} each ({machine()})", ("what", "p50 ms", "p99", "bytes", "aim"), rows)
    return 0


def _way(name: str, ms: list[float], *, judged: bool) -> tuple[str, ...]:
    middle = quantile(ms, 0.5)
    aim = ("ok" if middle < WAY_AIM_MS else "MISSED") if judged else ""
    return (name, f"{len(ms):,}", f"{middle:.1f}", f"{quantile(ms, 0.99):.1f}", f"{max(ms):.1f}", aim)


def _load(name: str, seen: Seen, heard: Heard | None, *, judged: bool) -> tuple[str, ...]:
    late_ms = quantile(seen.asked_ms, 0.99)
    asked_ms = heard.asked_ms if heard else []
    if heard and heard.wrong:
        raise RuntimeError(f"{heard.wrong} answers to GET /v1/status were not 200")
    return (
        name,
        f"{heard.rate:.0f}" if asked_ms and heard else "",
        f"{quantile(asked_ms, 0.5):.1f}" if asked_ms else "",
        f"{quantile(asked_ms, 0.99):.1f}" if asked_ms else "",
        f"{quantile(seen.asked_ms, 0.5):.1f}",
        f"{late_ms:.1f}",
        f"{max(seen.asked_ms):.1f}",
        ("ok" if late_ms < LAG_AIM_MS else "MISSED") if judged else "",
        f"{max(seen.loop_ms):.1f}",
        f"{max(seen.silent_s):.2f}",
        f"{sum(silent_s > LATE_S for silent_s in seen.silent_s)}",
        f"{seen.dropped}",
        f"{seen.cpu:.0f}",
        f"{seen.front_cpu:.0f}",
    )


if __name__ == "__main__":
    sys.exit(main())
