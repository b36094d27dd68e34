"""A store for what a worker keeps on purpose (replay buffers, metrics): bounded by count and by bytes, and without autograd graphs."""

import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Bounded(Generic[Item]):
    """Keeps the newest items; the oldest go when there are more than `count`, or more than `size_bytes` of them. Safe with threads.

    Tensors are kept detached, also inside lists, tuples and dicts, and the first one that came with its graph is warned of; a tensor or array that is a part
    of a larger one is copied, for it would keep the whole. Attributes of other objects are not looked into.
    """

    def __init__(self, *, count: int, size_bytes: int) -> None:
        """Begin empty. Raises ValueError for a bound below 1."""
        if count < 1 or size_bytes < 1:
            raise ValueError(f"a store needs room: count = {count}, size_bytes = {size_bytes}, and both must be at least 1")
        self.count, self.size_bytes = count, size_bytes
        self.used_bytes = 0
        self._items: deque[tuple[Item, int]] = deque()
        self._warned = False
        self._lock = threading.Lock()

    def append(self, item: Item) -> None:
        """Keep one more. Raises ValueError for one that is larger than the whole store may be."""
        kept, graphs = _bare(item)
        size = _size_of(kept)
        if size > self.size_bytes:
            raise ValueError(f"an item of {size:,} bytes does not fit into a store of {self.size_bytes:,}: keep less of it, or raise size_bytes")
        with self._lock:
            self._items.append((kept, size))
            self.used_bytes += size
            while len(self._items) > self.count or self.used_bytes > self.size_bytes:
                self.used_bytes -= self._items.popleft()[1]
            warn, self._warned = graphs and not self._warned, self._warned or graphs
        if warn:
            what = "a tensor was put into a store together with its autograd graph, which holds all that it was computed from; it is kept detached"
            warnings.warn(f"{what}. Give loss.item() or tensor.detach() (this is said once)", RuntimeWarning, stacklevel=2)

    def extend(self, items: Iterable[Item]) -> None:
        """Keep each of these."""
        for item in items:
            self.append(item)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._items.clear()
            self.used_bytes = 0

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._items)

    def __getitem__(self, place: int) -> Item:
        """Return one, the oldest at 0, the newest at -1. Raises IndexError."""
        return self._items[place][0]

    def __iter__(self) -> Iterator[Item]:
        """Go through those that are kept now, the oldest first."""
        with self._lock:
            now = tuple(self._items)
        return iter([item for item, _ in now])


def _bare(value: Any) -> tuple[Any, bool]:
    """Return the value without graphs, and without the rest of what its tensors and arrays are parts of; and whether there was a graph."""
    if (tensor := _kind("torch", "Tensor")) is not None and isinstance(value, tensor):
        given: Any = value
        whole = given.detach()
        part = whole.untyped_storage().nbytes() > whole.numel() * whole.element_size()
        return whole.clone() if part else whole, given.grad_fn is not None
    if (array := _kind("numpy", "ndarray")) is not None and isinstance(value, array):
        given = value
        return (given.copy() if given.base is not None else given), False
    if isinstance(value, dict):
        pairs = {key: _bare(one) for key, one in value.items()}
        return {key: one for key, (one, _) in pairs.items()}, any(graph for _, graph in pairs.values())
    if isinstance(value, (list, tuple)):
        bare = [_bare(one) for one in value]
        items, graphs = [one for one, _ in bare], any(graph for _, graph in bare)
        if isinstance(value, list):
            return items, graphs
        return (value._make(items) if hasattr(value, "_make") else tuple(items)), graphs
    return value, False


def _size_of(value: Any) -> int:
    """Return what a bare value takes: exactly for tensors and arrays, nearly for the rest."""
    if (tensor := _kind("torch", "Tensor")) is not None and isinstance(value, tensor):
        kept: Any = value
        return sys.getsizeof(kept) + int(kept.untyped_storage().nbytes())
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(_size_of(key) + _size_of(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return sys.getsizeof(value) + sum(map(_size_of, value))
    return sys.getsizeof(value)


def _kind(library: str, name: str) -> type | None:
    """Return a class of a library, if the work has imported it: nothing of it can come else."""
    found = getattr(sys.modules.get(library), name, None)
    return found if isinstance(found, type) else None
