"""Workers, devices, kinds, schedules, the queue as a whole: as the command line has them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from starlette.responses import Response

from supervisor.front.bodies import answer
from supervisor.front.openapi import describe
from supervisor.front.parts import FromCaller
from supervisor.shapes import DeviceView, DumpView, HoldView, KindView, ScheduleView, StatusView, WorkerView

router = APIRouter(prefix="/v1", tags=["fleet"])

WorkerName = Annotated[str, Path(max_length=200, description="A worker such as sam-0, or a model such as sam for all of its workers.")]


@router.get("/status", **describe(StatusView))
async def status(caller: FromCaller) -> Response:
    """Return everything on one screen."""
    return answer(await caller.status())


@router.get("/workers", **describe(list[WorkerView]))
async def workers(caller: FromCaller) -> Response:
    """Return the workers."""
    found = await caller.status()
    return answer(found.workers)


@router.post("/workers/{name}/dump", **describe(list[DumpView], also=(404, 409, 422, 429), says="What was seen."))
async def dump(caller: FromCaller, name: WorkerName) -> Response:
    """Look at a live process: its stacks (into its log too), its state, the end of its log."""
    return answer(await caller.view("workers.dump", list[DumpView], {"name": name}))


@router.post("/workers/{name}/{action}", **describe(list[str], status=202, also=(404, 409, 422, 429), says="The workers it will be done to."))
async def act(caller: FromCaller, name: WorkerName, action: Literal["start", "stop", "restart", "recycle"]) -> Response:
    """Say where you want a worker. It is answered once the wish is taken, not once it is fulfilled: see /v1/workers."""
    return answer(await caller.view(f"workers.{action}", list[str], {"name": name}), status=202)


@router.get("/gpu/status", **describe(list[DeviceView]))
async def devices(caller: FromCaller) -> Response:
    """Return the devices with their holders and waiters."""
    found = await caller.status()
    return answer(found.devices)


@router.get("/kinds", **describe(list[KindView]))
async def kinds(caller: FromCaller) -> Response:
    """Return what kinds of job there are, and what their parameters must look like."""
    return answer(await caller.view("kinds", list[KindView]))


@router.get("/schedules", **describe(list[ScheduleView]))
async def schedules(caller: FromCaller) -> Response:
    """Return the schedules of supervisor.toml."""
    return answer(await caller.view("schedules", list[ScheduleView]))


@router.post("/hold", **describe(HoldView, also=(409,)))
async def hold(caller: FromCaller) -> Response:
    """Start nothing new; what runs goes on."""
    return answer(await caller.view("jobs.hold", HoldView))


@router.post("/release", **describe(HoldView, also=(409,)))
async def release(caller: FromCaller) -> Response:
    """Start waiting jobs again."""
    return answer(await caller.view("jobs.release", HoldView))
