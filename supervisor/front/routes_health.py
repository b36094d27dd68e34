"""Whether we live, whether work is taken, whether all is well, and the numbers."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from supervisor.front.bodies import answer
from supervisor.front.openapi import ALWAYS, describe
from supervisor.front.parts import FromCaller
from supervisor.front.problems import Refusal
from supervisor.front.room import why_not_ready
from supervisor.front.shapes_out import AliveView, DeviceHealth, HealthView, HeldView, ReadyView
from supervisor.shapes import DeviceView

router = APIRouter(tags=["health"])


@router.get("/healthz", **describe(AliveView, says="The front lives.", always=(421,)))
async def healthz() -> Response:
    """Say that this process answers. It asks nobody, and needs no token."""
    return answer(AliveView())


@router.get("/readyz", **describe(ReadyView, says="The supervisor takes work."))
async def readyz(caller: FromCaller) -> Response:
    """Say whether the supervisor answers and takes work: it does not while it stops, while its store fails, or below disk_floor."""
    refusal = why_not_ready(await caller.status())
    if refusal is not None:
        raise refusal
    return answer(ReadyView())


@router.get("/health", **describe(HealthView, says="All is well."))
async def health(caller: FromCaller) -> Response:
    """Say whether all is well, and who holds how much of which device. When something is not, 503; the member `health` holds the same."""
    status = await caller.status()
    view = HealthView(
        status="unwell" if status.unwell else "ok",
        unwell=status.unwell,
        devices=[_device(device) for device in status.devices],
        memory_available_bytes=status.memory.available_bytes,
        disk_free_bytes=status.memory.disk_free_bytes,
        uptime_s=status.supervisor.uptime_s,
    )
    if status.unwell:
        raise Refusal(503, "unwell", "; ".join(status.unwell), extra={"health": view})
    return answer(view)


def _device(device: DeviceView) -> DeviceHealth:
    return DeviceHealth(
        id=device.id,
        name=device.name,
        state=device.state,
        total_bytes=device.total_bytes,
        used_bytes=device.used_bytes,
        free_bytes=device.free_bytes,
        holders=[
            HeldView(
                owner=one.owner,
                kind=one.kind,
                pid=one.pid,
                state=one.state,
                need_bytes=one.need_bytes,
                used_bytes=one.used_bytes,
                since_s=one.since_s,
                booked_bytes=one.booked_bytes,
                peak_bytes=one.peak_bytes,
            )
            for one in device.holders
        ],
    )


@router.get("/metrics", **describe(str, media="text/plain", says="Prometheus' text form.", always=set(ALWAYS) - {503}))
async def metrics(caller: FromCaller) -> Response:
    """Return the numbers for Prometheus. Without a supervisor `warden_up` is 0."""
    data = await caller.front.metrics.scrape(caller.front.supervisor)
    return Response(data, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
