"""Whether what a worker holds between its jobs grows from job to job, and by what: a verdict over what it measured of itself."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from msgspec import Struct, field

from supervisor.core.limits import MIB
from supervisor.units import format_size

KEPT: Final = 30
"""So many measurements of one process are looked at, the newest."""
WARM_UP: Final = 2
"""The first jobs fill caches and import what is imported late: what they add is no leak."""
ENOUGH: Final = 7
"""Measurements without which there is no verdict."""
_RISES: Final = 5
"""Between two measurements, at the least: a few jumps are a cache that was filled."""
_SLOWS: Final = 0.7
"""Growth whose later half goes on at less than this share of its earlier half comes to rest."""
_SIGMAS: Final = 4.5
"""How far the order of the values must be from that of chance (Mann and Kendall). Of few values nearly each must be above all before it."""
_IN_ORDER: Final = 0.95
_NOISE: Final = 6
"""Times the usual distance from the line (median): what does not rise further than that in all is noise."""
_LEAST_BYTES: Final = MIB
"""Per job. Less is not worth a person's time: a worker is recycled long before it hurts."""
_TRIMMED_BYTES: Final = 64 * MIB
"""Given back by the allocator after a job: twice the largest block that glibc takes from its heap, so one freed buffer is not called retention."""
_BLOCK_BYTES: Final = 80
"""Of one block of Python's own allocator, roughly: they are of 16 to 512 bytes, most of them small."""
_PYTHON_SHARE: Final = 0.25
"""Of the growth: from here on Python's objects are what grows, or hold what does."""


class Graphs(Struct, frozen=True, kw_only=True):
    """Tensors that are alive between two jobs and hold their autograd graph. shapes: of the biggest; held_in: where one was found."""

    count: int
    used_bytes: int
    shapes: tuple[str, ...] = ()
    held_in: str = ""


class Idle(Struct, frozen=True, kw_only=True):
    """What a worker held between two jobs, after its garbage was collected and its allocator trimmed. None: not counted this time, or there is no such thing.

    used_bytes: of its process alone, without mapped files; trimmed_bytes: what the allocator had kept of what was freed, until it was trimmed just before;
    pinned_bytes: of torch's cache of pinned memory; blocks: of Python's own allocator; items: of containers by where they are; grown: objects by type, as
    many more as at the count before.
    """

    jobs: int
    used_bytes: int
    trimmed_bytes: int = 0
    pinned_bytes: int | None = None
    blocks: int | None = None
    graphs: Graphs | None = None
    items: Mapping[str, int] = field(default_factory=dict)
    grown: Mapping[str, int] = field(default_factory=dict)


class Leak(Struct, frozen=True, kw_only=True):
    """A verdict. kind: graph_retention, pinned_cache, python, native, allocator_retention. per_job_bytes: 0 where the idle memory does not grow."""

    kind: str
    per_job_bytes: int
    jobs: int
    sentence: str

    @property
    def harmless(self) -> bool:
        """True for what is given back after each job."""
        return self.kind == "allocator_retention"


def judge_growth(series: Sequence[Idle]) -> Leak | None:
    """Return what leaks, or is kept by the allocator, by the measurements of one process, the oldest first; None while there is no verdict."""
    series = [idle for idle in series if idle.jobs > WARM_UP][-KEPT:]
    if len(series) < ENOUGH:
        return None
    grows = _grows([(idle.jobs, idle.used_bytes) for idle in series], _LEAST_BYTES) or 0.0
    size = f"its idle memory grows by {format_size(round(grows))} with each job" if grows else ""
    found = _graphs(series, size) or _pinned(series)
    if found is None and grows:
        found = _python(series, grows, size) or (
            "native",
            f"{size}, and Python's objects do not: a native library keeps it (memray attach --native shows which)",
        )
    if found is None:
        found = _retained(series)
    if found is None:
        return None
    kind, sentence = found
    return Leak(kind=kind, per_job_bytes=round(grows), jobs=series[-1].jobs, sentence=f"{kind.replace('_', ' ')}: {sentence}")


def _graphs(series: Sequence[Idle], size: str) -> tuple[str, str] | None:
    counted = [(idle.jobs, idle.graphs) for idle in series if idle.graphs is not None]
    more = _grows([(jobs, graphs.count) for jobs, graphs in counted], 1.0)
    if more is None:
        return None
    now = counted[-1][1]
    alive = f"{now.count} tensors with their autograd graph are alive between jobs ({format_size(now.used_bytes)} without it)"
    what = f"{alive}, {more:.0f} more with each job"
    parts = (what, f"the biggest {', '.join(now.shapes)}" if now.shapes else "", f"kept in {now.held_in}" if now.held_in else "", size)
    return "graph_retention", f"{'; '.join(filter(None, parts))}. Keep them detached: tensor.detach(), loss.item(), or workers.bounded"


def _pinned(series: Sequence[Idle]) -> tuple[str, str] | None:
    more = _grows([(idle.jobs, idle.pinned_bytes) for idle in series if idle.pinned_bytes is not None], _LEAST_BYTES)
    if more is None:
        return None
    now = format_size(series[-1].pinned_bytes or 0)
    return (
        "pinned_cache",
        f"torch's cache of pinned memory has {now}, {format_size(round(more))} more with each job: pin buffers of few sizes, and use them again",
    )


def _python(series: Sequence[Idle], grows: float, size: str) -> tuple[str, str] | None:
    places = {where: _grows([(idle.jobs, idle.items[where]) for idle in series if where in idle.items], 0.5) for where in series[-1].items}
    kept = [f"{where} has {more:.0f} more {'item' if round(more) == 1 else 'items'} with each job" for where, more in places.items() if more is not None]
    blocks = _grows([(idle.jobs, idle.blocks) for idle in series if idle.blocks is not None], 1.0) or 0.0
    if not kept and blocks * _BLOCK_BYTES < _PYTHON_SHARE * grows:
        return None
    added: Counter[str] = Counter()
    for idle in series[1:]:
        added.update(idle.grown)
    per_job = ((name, more / (series[-1].jobs - series[0].jobs)) for name, more in added.most_common(3))
    types = ", ".join(f"{more:.0f} {name}" for name, more in per_job if more >= 1)
    return "python", "; ".join(filter(None, (size, *kept[:3], f"more objects with each job: {types}" if types else "")))


def _retained(series: Sequence[Idle]) -> tuple[str, str] | None:
    usual = median(idle.trimmed_bytes for idle in series[-ENOUGH:])
    if usual < _TRIMMED_BYTES:
        return None
    return (
        "allocator_retention",
        f"malloc keeps about {format_size(round(usual))} of what each job frees; it is given back after the job (malloc_trim), so the worker stays",
    )


def _grows(points: Sequence[tuple[int, int]], at_least: float) -> float | None:
    """Return by how much the values grow with each job; None where they do not, or not steadily. points: (jobs, value), the oldest first.

    The slope is Theil and Sen's, the median over all pairs: outliers do not move it. Steady means that it stands out of the noise, in several rises, and does
    not come to rest.
    """
    if len(points) < ENOUGH:
        return None
    chance = math.sqrt(2 * (2 * len(points) + 5) / (9 * len(points) * (len(points) - 1)))
    if _order(points) < min(_IN_ORDER, _SIGMAS * chance):
        return None
    slope, half = _slope(points), len(points) // 2
    later = _slope(points[half:])
    if slope < at_least or later < max(slope / 2, _SLOWS * _slope(points[:half])):
        return None
    rises = sum(1 for (_, before), (_, after) in pairwise(points) if after - before > slope / 2)
    level = median(value - slope * jobs for jobs, value in points)
    noise = median(abs(value - slope * jobs - level) for jobs, value in points)
    return slope if rises >= _RISES and slope * (points[-1][0] - points[0][0]) > _NOISE * noise else None


def _order(points: Sequence[tuple[int, int]]) -> float:
    """Return Kendall's tau: 1 where each value is above all before it, 0 where they come by chance, -1 where they only fall."""
    pairs = [(after > before) - (after < before) for i, (_, before) in enumerate(points) for _, after in points[i + 1 :]]
    return sum(pairs) / len(pairs)


def _slope(points: Sequence[tuple[int, int]]) -> float:
    slopes = [(after - before) / (later - jobs) for i, (jobs, before) in enumerate(points) for later, after in points[i + 1 :] if later > jobs]
    return median(slopes) if slopes else -math.inf
