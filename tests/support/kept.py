"""Processes of a supervisor's own, for a test: started, their exits as they come, and gone at the end; once in cgroups and once without."""

import asyncio
import os
import select
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from supervisor.adapters.cgroups import find_parent, prefix_of
from supervisor.adapters.processes import LocalProcesses
from supervisor.core.events import WorkerExited  # noqa: TC001  # one way to import, for people as for types
from supervisor.core.model import Exit, WorkerName
from supervisor.runtime.process_ports import Launch

NAME = WorkerName("tool-0")
WITHIN_S = 20
PARENT = find_parent()


class Kept:
    """The processes of one test, and their exits as they come."""

    def __init__(self, folder: Path, leaves_in: Path | None = None) -> None:
        self.folder = folder
        self.leaves_in = leaves_in
        self.exits: asyncio.Queue[WorkerExited] = asyncio.Queue()
        (folder / "run").mkdir(exist_ok=True)
        self.processes = LocalProcesses(run_dir=folder / "run", post=self.exits.put_nowait, leaves_in=leaves_in)
        self.pids: list[int] = []

    def launch(self, *argv: str, generation: int = 1, log: str = "tool.log", env: dict[str, str] | None = None) -> Launch:
        return Launch(
            worker=NAME,
            generation=generation,
            token="t",
            tag=f"tag-{os.getpid()}-{generation}",
            argv=argv,
            env={"PATH": os.environ["PATH"], "WARDEN_TAG": f"tag-{os.getpid()}-{generation}", **(env or {})},
            cwd=self.folder,
            log=self.folder / log,
            umask="0077",
            oom_score_adj=0,
        )

    def later(self) -> LocalProcesses:
        """Return the processes of a supervisor that comes after this one."""
        return LocalProcesses(run_dir=self.folder / "run", post=self.exits.put_nowait, leaves_in=self.leaves_in)

    async def spawn(self, *argv: str, generation: int = 1) -> int:
        self.pids.append(await self.processes.spawn(self.launch(*argv, generation=generation)))
        return self.pids[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        """Return once the condition holds."""
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                await asyncio.to_thread(select.select, [], [], [], 0.01)

    async def exit(self) -> Exit:
        async with asyncio.timeout(WITHIN_S):
            return (await self.exits.get()).exit


@pytest_asyncio.fixture(params=["in a cgroup", "without one"])
async def kept(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    """What starts processes, once with a cgroup for each and once as on a machine where none can be made."""
    if request.param == "in a cgroup" and PARENT is None:
        pytest.skip("no cgroup can be made on this machine")
    one = Kept(tmp_path, PARENT if request.param == "in a cgroup" else None)
    yield one
    for generation in range(1, 10):
        await one.processes.kill(NAME, generation)
        await one.processes.prove_gone(NAME, generation, WITHIN_S)
    async with asyncio.timeout(WITHIN_S):
        while one.processes._pidfds:
            await one.exits.get()
    if PARENT is not None:
        assert not list(PARENT.glob(f"{prefix_of(tmp_path / 'run')}*")), "a cgroup is left"
