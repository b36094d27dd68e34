"""Fixtures: a front that a whole module shares, and a maker of others."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.front import FrontChild, fronts


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontChild]:
    """One front on loopback, without a token, for all tests of a module."""
    with fronts(tmp_path_factory.mktemp("front")) as one:
        yield one


@pytest.fixture
def http(front: FrontChild) -> Iterator[httpx.Client]:
    """A client of the shared front."""
    with front.client() as client:
        yield client


MakeFront = Callable[..., FrontChild]


@pytest.fixture
def make_front(tmp_path: Path) -> Iterator[MakeFront]:
    """What makes fronts with options of their own."""
    with ExitStack() as stack:
        yield lambda name="f", **options: stack.enter_context(fronts(tmp_path / name, **options))


_CHILD = {"front", "make_front", "away", "guarded", "readme_front", "rooted"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts a front takes seconds on a busy machine, and much longer on a very busy one."""
    for item in items:
        if _CHILD & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(180))
