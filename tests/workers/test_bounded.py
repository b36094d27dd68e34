"""The bounded store: the newest stay, within count and bytes, and no tensor keeps its graph."""

import gc
import importlib.util
import threading
import warnings
from typing import Any, NamedTuple

import pytest

from workers.bounded import Bounded

KIB = 1024


class Step(NamedTuple):
    state: Any
    reward: Any


def test_the_oldest_go_when_there_are_too_many() -> None:
    store = Bounded[int](count=3, size_bytes=KIB)

    store.extend(range(5))

    assert (list(store), len(store), store[0], store[-1]) == ([2, 3, 4], 3, 2, 4)


def test_the_oldest_go_when_they_take_too_much() -> None:
    store = Bounded[bytes](count=100, size_bytes=10 * KIB)

    for number in range(20):
        store.append(bytes([number]) * 2 * KIB)

    assert [item[0] for item in store] == [16, 17, 18, 19]
    assert 8 * KIB < store.used_bytes <= 10 * KIB


def test_what_does_not_fit_at_all_is_refused_with_its_size_and_leaves_the_rest() -> None:
    store = Bounded[bytes](count=2, size_bytes=KIB)
    store.append(b"small")

    with pytest.raises(ValueError, match=r"an item of 65,569 bytes does not fit into a store of 1,024"):
        store.append(bytes(64 * KIB))

    assert list(store) == [b"small"]


@pytest.mark.parametrize("bounds", [{"count": 0, "size_bytes": 1}, {"count": 1, "size_bytes": 0}])
def test_a_store_without_room_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        Bounded[int](**bounds)


def test_cleared_it_is_empty() -> None:
    store = Bounded[int](count=3, size_bytes=KIB)
    store.extend(range(3))

    store.clear()

    assert (len(store), store.used_bytes, list(store)) == (0, 0, [])


def test_a_part_of_an_array_does_not_keep_the_whole() -> None:
    np = pytest.importorskip("numpy")
    store = Bounded[Any](count=10, size_bytes=100 * KIB)

    store.append({"row": np.zeros((1000, 100))[3]})

    assert store[0]["row"].base is None
    assert store.used_bytes < 3 * KIB


def test_many_threads_leave_it_within_its_bounds() -> None:
    store = Bounded[bytes](count=50, size_bytes=20 * KIB)
    threads = [threading.Thread(target=store.extend, args=([bytes(KIB)] * 200,)) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    one = store.used_bytes // len(store)
    assert (len(store), store.used_bytes) == (20 * KIB // one, one * (20 * KIB // one))


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra models: make test installs it")


@pytest.mark.slow
@pytest.mark.models
@needs_torch
def test_tensors_are_kept_detached_and_it_is_said_once() -> None:
    import torch

    weight = torch.rand(64, 64, requires_grad=True)
    store = Bounded[Any](count=100, size_bytes=2**20)

    with pytest.warns(RuntimeWarning, match="together with its autograd graph") as said:
        store.append(Step(state=[(weight @ weight).relu()], reward={"loss": (weight * 2).sum()}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.append((weight * 3).sum())

    assert len(said) == 1
    assert said[0].filename == __file__
    assert isinstance(store[0], Step)
    assert all(one.grad_fn is None for one in (store[0].state[0], store[0].reward["loss"], store[1]))
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is torch.Tensor and one.grad_fn is not None]


@pytest.mark.slow
@pytest.mark.models
@needs_torch
def test_a_part_of_a_tensor_does_not_keep_the_whole() -> None:
    import torch

    store = Bounded[Any](count=100, size_bytes=2**20)

    store.append(torch.zeros(1000, 1000)[7])

    assert store[0].untyped_storage().nbytes() == 4000
    assert 4000 < store.used_bytes < 5000
