"""The fixtures `live`: a real supervisor for a test, and `cards`: fake cards under the real pynvml."""

from pathlib import Path

import pytest

from tests.support.fake_card import cards, library
from tests.support.live import live

__all__ = ["cards", "library", "live"]

TIMEOUT_S = 240
"""Tests here start whole supervisors, again and again: the minute that any other test has is not far more than that takes on a machine with two busy cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test of this folder the time, unless it says how much it needs."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))
