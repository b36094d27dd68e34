"""The process: takes the sockets that the supervisor hands down, serves on them, says that it lives, and ends in order."""

import asyncio
import gc
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import uvicorn
from sse_starlette.sse import AppStatus

from supervisor.front.app import build
from supervisor.front.client import Supervisor
from supervisor.front.connection import Connection
from supervisor.front.hub import Hub
from supervisor.front.metrics import Metrics
from supervisor.front.notices import Notices
from supervisor.front.options import Options
from supervisor.front.parts import Front
from supervisor.front.roots import Roots
from supervisor.front.sessions import Sessions
from supervisor.shapes import JobView

GRACE_S: Final = 5
BACKLOG: Final = 1024
_ANSWER_S: Final = 30.0
_IN_STEP_S: Final = 3.0


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to us: it would take them, and raise them again when it is done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: Options, sockets: list[socket.socket], notices: Notices) -> None:
    """Serve on these listening sockets until SIGTERM or SIGINT."""
    hubs: list[Hub] = []
    config = uvicorn.Config(
        build(options, parts=lambda: _parts(options, hubs)),
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        proxy_headers=False,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    said = asyncio.create_task(_say(server, sockets[0], notices, hubs))

    def stop() -> None:
        notices.say("STOPPING=1", "STATUS=finishes what is asked")
        server.should_exit = True
        AppStatus.should_exit = True  # open streams end at once, or they would hold the shutdown up
        for hub in hubs:
            hub.close()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await server.serve(sockets=sockets)
    finally:
        said.cancel()


@asynccontextmanager
async def _parts(options: Options, hubs: list[Hub]) -> AsyncIterator[Front]:
    supervisor = Supervisor(options.state_dir)
    metrics = Metrics()
    hub = Hub(supervisor, options.state_dir, metrics.hear)
    hubs.append(hub)
    metrics.follow(_job_by(supervisor))
    sessions = Sessions(options.state_dir)
    await asyncio.to_thread(sessions.sweep)
    running = asyncio.create_task(hub.run())
    gc.freeze()  # what is loaded by now stays; it need not be looked through again
    try:
        yield Front(
            options=options,
            supervisor=supervisor,
            hub=hub,
            metrics=metrics,
            roots=Roots(options.state_dir, options.allowed_roots),
            sessions=sessions,
        )
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        hub.close()
        supervisor.close()


def _job_by(supervisor: Supervisor) -> Callable[[str], Awaitable[JobView]]:
    return lambda job: supervisor.view("jobs.show", JobView, {"job": job}, by="metrics")


async def _say(server: uvicorn.Server, listener: socket.socket, notices: Notices, hubs: list[Hub]) -> None:
    """Say READY once the application answers, then that the loop still turns."""
    address = listener.getsockname()
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.02)
    await _answers(address, listener.family)
    with suppress(TimeoutError):  # without a supervisor it serves all the same, and says so
        async with asyncio.timeout(_IN_STEP_S):
            while not hubs[0].in_step:
                await hubs[0].bell().wait()
    where = f"http://{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
    notices.say("READY=1", f"STATUS=serves on {where}")
    while notices.watchdog_every_s is not None:
        await asyncio.sleep(notices.watchdog_every_s)
        notices.say("WATCHDOG=1", f"STATUS=serves on {where}, {len(server.server_state.connections)} connections")


async def _answers(address: object, family: int) -> None:
    """Return once /healthz was answered over the listening socket itself."""
    while True:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_ANSWER_S):
                if isinstance(address, tuple):
                    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104  # an address to ask at, not one to listen on
                    reader, writer = await asyncio.open_connection(host, address[1], family=family)
                else:
                    reader, writer = await asyncio.open_unix_connection(str(address))
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                line = await reader.readline()
                writer.close()
                if line.split()[1:2] == [b"200"]:
                    return
        await asyncio.sleep(0.1)
