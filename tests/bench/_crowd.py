"""Clients of the HTTP front, in a process of their own: some follow the events, some ask for the status at a fixed rate. A program; see `Crowd`.

Raw sockets: a client library would use up the core that the front needs. What is measured is printed as one line of JSON at the end.
"""

import asyncio
import re
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import Struct

from tests.bench._warden import ROOT, environment

CONNECTIONS: Final = 32
"""Requests under way at the most: whoever finds none free waits, and the rate that was really reached says so."""
_STAMP: Final = re.compile(rb'"said_at_s":([0-9.e+]+)')
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Heard(Struct, frozen=True, kw_only=True):
    """What the crowd saw. way_ms: from the work's own stamp to each follower; asked_ms: of each status; wrong: answers that were not 200."""

    way_ms: list[float]
    asked_ms: list[float]
    rate: float
    wrong: int


class Crowd:
    """A running crowd. It says when everybody is connected, and ends when it is told."""

    def __init__(self, port: int, *, followers: int, rate: float) -> None:
        """Start it, and return once it began. rate: requests a second; 0 for none."""
        command = [sys.executable, "-m", "tests.bench._crowd", str(port), str(followers), str(rate)]
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "began\n":
            self._process.wait()
            raise RuntimeError(f"the crowd ended with {self._process.returncode} before it began")

    def end(self) -> Heard:
        """Return what it saw."""
        out, _ = self._process.communicate("", timeout=60)
        return msgspec.json.decode(out, type=Heard)


class _Clients:
    def __init__(self, port: int) -> None:
        self.way_ms: list[float] = []
        self.asked_ms: list[float] = []
        self.wrong = 0
        self._port = port
        self._due: asyncio.Queue[None] = asyncio.Queue()

    async def follow(self, connected: asyncio.Semaphore) -> None:
        """Read the stream; each stamp is compared with the clock at its arrival."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        connected.release()
        last_s = 0.0
        with suppress(asyncio.IncompleteReadError):
            while True:
                line = await reader.readuntil(b"\n")
                found = _STAMP.search(line)
                if found and float(found[1]) > last_s:  # other events of the job repeat its last metrics
                    last_s = float(found[1])
                    self.way_ms.append(1000 * (time.monotonic() - last_s))

    async def ask(self) -> None:
        """Ask for the status, on one connection, whenever a request is due."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while True:
            await self._due.get()
            began_s = time.monotonic()
            writer.write(b"GET /v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            self.asked_ms.append(1000 * (time.monotonic() - began_s))
            self.wrong += not head.startswith(b"HTTP/1.1 200")

    async def pace(self, rate: float) -> None:
        """Make requests due at the rate. What falls due while all are under way is not asked later: that would be another load."""
        began_s, made = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, began_s + (made + 1) / rate - time.monotonic()))  # noqa: TID251  # the pace is the load
            due = int((time.monotonic() - began_s) * rate)
            for _ in range(min(due - made, CONNECTIONS - self._due.qsize())):
                self._due.put_nowait(None)
            made = due


async def _crowd(port: int, followers: int, rate: float) -> Heard:
    clients, connected = _Clients(port), asyncio.Semaphore(0)
    tasks = [asyncio.create_task(clients.follow(connected)) for _ in range(followers)]
    for _ in range(followers):
        await connected.acquire()
    if rate:
        tasks += [asyncio.create_task(clients.ask()) for _ in range(CONNECTIONS)]
        tasks.append(asyncio.create_task(clients.pace(rate)))
    print("began", flush=True)
    began_s = time.monotonic()
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    done, _ = await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
    took_s = time.monotonic() - began_s
    if told not in done:  # a client that ended had no reason to
        raise RuntimeError(f"a client ended early: {[task.exception() for task in done]}")
    return Heard(way_ms=clients.way_ms, asked_ms=clients.asked_ms, rate=len(clients.asked_ms) / took_s, wrong=clients.wrong)


if __name__ == "__main__":
    heard = asyncio.run(_crowd(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
    print(msgspec.json.encode(heard).decode(), flush=True)
