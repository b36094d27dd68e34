"""The diagrams in DESIGN.md are those of the tables."""

import pytest

from tests.support.diagrams import DESIGN, blocks, redrawn


def test_the_page_shows_the_tables_as_they_are() -> None:
    page = DESIGN.read_text(encoding="utf-8")

    assert redrawn(page) == page, "python -m tests.support.diagrams"


def test_each_move_is_one_arrow() -> None:
    drawn = blocks()["worker states"]

    assert "    starting --> ready: ready" in drawn
    assert "    quarantined --> starting: spawn" in drawn


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no block from <!-- worker states -->"):
        redrawn("# Design\n")
