"""What a worker holds between two jobs, measured by itself: after its garbage was collected and its allocator trimmed, and for little of its time."""

import ctypes
import gc
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Final

from msgspec.structs import replace

from supervisor.wire import Graphs, Idle

_FREE_S: Final = 0.002
_SHARE: Final = 0.01
"""Objects are counted when the last count cost no more than _FREE_S of the processor, or than this share of the time since."""
_PLACES: Final = 1000
"""Objects that are looked into for containers, the worker first."""
_DEEP: Final = 3
_NAMED: Final = 8
_SOME: Final = 100
_OWN: Final = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_CONTAINERS: Final = (list, dict, set, deque)


def release() -> int:
    """Give back what a job held: garbage, torch's cache, the pages that the allocator kept. Returns how many bytes the last were."""
    gc.collect()
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        with suppress(RuntimeError):  # a broken context gives nothing back; how the job ended is told all the same
            cuda.empty_cache()
    trim = getattr(_libc, "malloc_trim", None)
    if trim is None:  # glibc only
        return 0
    before = own_bytes()
    trim(0)
    return max(0, before - own_bytes())


def own_bytes() -> int:
    """Return the memory of this process alone, without mapped files; what is swapped out counts."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123  # 20 us, where a Path takes twice that
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith(_OWN))


class IdleMeter:
    """Measures after each job, in less than a millisecond; objects, which are dear, are counted only as often as they may cost."""

    def __init__(self, worker: object) -> None:
        """Measure a process with this worker in it."""
        self._worker = worker
        self._jobs = 0
        self._types: Counter[type] = Counter()
        self._items: dict[str, int] = {}
        self._counted_at_s = time.monotonic()
        self._cost_s = 0.0

    def job_ended(self) -> None:
        """One job more has ended."""
        self._jobs += 1

    def measure(self, trimmed_bytes: int) -> Idle:
        """Return what is held now. trimmed_bytes: what `release` said."""
        places = dict(_containers(self._worker))
        items = {where: len(found) for where, found in places.items()}
        more = Counter({where: count for where, count in items.items() if count > self._items.get(where, 0)})
        self._items = items
        held = Idle(
            jobs=self._jobs,
            used_bytes=own_bytes(),
            trimmed_bytes=trimmed_bytes,
            pinned_bytes=_pinned_bytes(),
            blocks=sys.getallocatedblocks(),
            items=dict(more.most_common(_NAMED)),
        )
        if self._cost_s > max(_FREE_S, _SHARE * (time.monotonic() - self._counted_at_s)):
            return held
        began_s = time.thread_time()  # the processor's: on a busy machine a pause in the middle must not make the next count look dear
        objects = gc.get_objects()  # what was loaded is frozen, and not among them
        types = Counter(map(type, objects))
        graphs = _graphs(objects, types, places)
        del objects
        grown = {kind.__qualname__: count for kind, count in (types - self._types).most_common(_NAMED)} if self._types else {}
        self._types = types
        self._counted_at_s, self._cost_s = time.monotonic(), time.thread_time() - began_s
        return replace(held, graphs=graphs, grown=grown)


def _containers(worker: object) -> Iterator[tuple[str, Any]]:
    """Yield the containers that the worker's attributes lead to, and those at the top of its module, each with where it is."""
    seen: set[int] = set()
    module = sys.modules.get(type(worker).__module__)
    inside: deque[tuple[str, int, Mapping[str, Any]]] = deque([("self", 1, vars(worker))])
    if module is not None:
        inside.append((module.__name__, _DEEP, vars(module)))
    while inside and len(seen) < _PLACES:
        where, deep, attributes = inside.popleft()
        for name, value in tuple(attributes.items()):
            if id(value) in seen or name.startswith("__"):
                continue
            seen.add(id(value))
            if isinstance(value, _CONTAINERS):
                yield f"{where}.{name}", value
            elif deep < _DEEP and not isinstance(value, (type, ModuleType, FunctionType)) and isinstance(own := getattr(value, "__dict__", None), dict):
                inside.append((f"{where}.{name}", deep + 1, own))


def _graphs(objects: Iterable[object], types: Iterable[type], places: Mapping[str, Any]) -> Graphs | None:
    """Return the tensors that keep their graph alive; None without torch. Only where the work has imported it: it takes a second and 200 MB."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    if tensor is None:
        return None
    kinds = {kind for kind in types if issubclass(kind, tensor)}
    found = [one for one in objects if type(one) in kinds and one.grad_fn is not None] if kinds else []  # type: ignore[attr-defined]  # a tensor's
    found.sort(key=_size, reverse=True)
    shapes = tuple(f"{list(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in found[:3])  # type: ignore[attr-defined]  # as above
    alive = {id(one) for one in found}
    held_in = next((where for where, container in places.items() if any(id(one) in alive for one in _some_of(container))), "") if alive else ""
    return Graphs(count=len(found), used_bytes=sum(map(_size, found)), shapes=shapes, held_in=held_in)


def _some_of(container: Any) -> Iterator[object]:
    """Yield a few of what is in it: the newest where it has an order."""
    values = container.values() if isinstance(container, dict) else container
    return islice(values if isinstance(values, set) else reversed(values), _SOME)


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _pinned_bytes() -> int | None:
    """Return what torch's cache of pinned memory holds; None where there is none, or where it does not tell."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    stats = getattr(cuda, "host_memory_stats", None)
    if cuda is None or stats is None or not cuda.is_initialized():
        return None
    value = None
    with suppress(RuntimeError):  # a broken context
        value = stats().get("allocated_bytes.current")
    return int(value) if value is not None else None


_libc = ctypes.CDLL(None)
