"""Job queues for the benchmarks, in a virtualenv of their own that goes with its folder: Celery and RQ on a Redis that is started here, Huey on SQLite.

Each submits through a client program of a few lines, Warden too, so that all are measured by the same hand.
"""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.bench._warden import LOOK_S, environment

PACKAGES: Final = ("celery[redis]", "rq", "huey")
START_MAX_S: Final = 20.0

CLIENT: Final = """
import json, sys, threading, time

def warden(where):
    from supervisor.control import Client
    def make():
        client = Client(lambda: where)
        return lambda: client.ask("jobs.submit", {"kind": "demo.count", "params": {"n": 1}})["id"]
    return make

def celery(where):
    from celery import Celery
    app = Celery("bench", broker=where)
    app.conf.update(task_ignore_result=True, task_serializer="json", broker_pool_limit=16)
    return lambda: lambda: app.send_task("demo.count", (1,)).id

def rq(where):
    from redis import Redis
    from rq import Queue
    queue = Queue(connection=Redis.from_url(where))
    return lambda: lambda: queue.enqueue("builtins.abs", 1).id

def huey(where):
    from huey import SqliteHuey
    app = SqliteHuey(filename=where, fsync=True)
    @app.task()
    def count(n):
        return n
    return lambda: lambda: count(1).id

def timed(submit, times):
    took = []
    for _ in range(times):
        began = time.perf_counter()
        assert submit()
        took.append(1000 * (time.perf_counter() - began))
    return took

kind, where, times, clients, each = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
make = globals()[kind](where)
alone = make()
timed(alone, 5)
found = {"alone": timed(alone, times), "crowd": []}
begin = threading.Barrier(clients + 1)

def work():
    submit = make()
    timed(submit, 2)
    begin.wait()
    found["crowd"] += timed(submit, each)

threads = [threading.Thread(target=work) for _ in range(clients)]
[thread.start() for thread in threads]
begin.wait()
began = time.perf_counter()
[thread.join() for thread in threads]
found["rate"] = clients * each / (time.perf_counter() - began)
print(json.dumps(found))
"""


class Took(NamedTuple):
    """What submits took, in ms: of one client, and of some at once; and how many of these there were in a second."""

    alone: list[float]
    crowd: list[float]
    rate: float


class Queue(NamedTuple):
    """Something to submit to. durability: what is on disk when the id is there."""

    name: str
    kind: str
    where: str
    python: Path
    durability: str

    def submit(self, count: int, clients: int, each: int) -> Took:
        """Return what so many submits of one client took, and then each of so many at once."""
        env = environment() if self.kind == "warden" else {name: value for name, value in environment().items() if name != "PYTHONPATH"}
        command = [str(self.python), "-c", CLIENT, self.kind, self.where, str(count), str(clients), str(each)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            raise RuntimeError(f"{self.name} could not be measured:\n{done.stderr[-2000:]}")
        return Took(**json.loads(done.stdout))


def install(folder: Path) -> Path | None:
    """Return the Python that has the peers, or None where they cannot be installed, which is said on stdout."""
    place = folder / "peers"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check", *PACKAGES]
    if subprocess.run(pip, check=False).returncode:
        print("celery, rq and huey could not be installed and are skipped")
        return None
    return place / "bin/python"


@contextmanager
def redis(folder: Path, fsync: str) -> Iterator[str | None]:
    """Yield the URL of a Redis of our own that appends each write to its file, flushed always or everysec; None where there is no redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        print("there is no redis-server: celery and rq are skipped (Debian and Ubuntu: apt-get install redis-server)")
        yield None
        return
    place = folder / f"redis-{fsync}"
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:  # Redis takes no port 0; on this one nobody else listens now
        port = free.getsockname()[1]
    settings = {"bind": "127.0.0.1", "port": str(port), "dir": str(place), "save": "", "appendonly": "yes", "appendfsync": fsync}
    command = [program, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    with (place / "out").open("wb") as out:
        process = subprocess.Popen(command, cwd=place, stdout=out, stderr=out)
    try:
        _wait_for(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        try:
            process.wait(START_MAX_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + START_MAX_S
    while process.poll() is None and time.monotonic() < end_s:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1.0) as caller:
                caller.sendall(b"PING\r\n")
                if caller.recv(16).startswith(b"+PONG"):
                    return
        except OSError:
            time.sleep(LOOK_S)  # noqa: TID251  # it tells nobody when it listens
    raise RuntimeError("redis-server did not start")
