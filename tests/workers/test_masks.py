"""Masks keep every pixel on their way through the compressed form and the disk."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numpy")

import numpy as np
from numpy.typing import NDArray

from workers import masks


def slow_counts(mask: NDArray[np.bool_]) -> str:
    """Encode the obvious way, pixel by pixel and bit by bit: the twin of the vectorised one."""
    runs: list[int] = []
    value, length = False, 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    runs.append(length)
    text = ""
    for index, run in enumerate(runs):
        number = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            bits = number & 0x1F
            number >>= 5
            more = number != -1 if bits & 0x10 else number != 0
            text += chr((bits | (0x20 if more else 0)) + 48)
    return text


@st.composite
def random_masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grain = draw(st.integers(1, 12))
    coarse = rng.random((height // grain + 1, width // grain + 1)) < draw(st.floats(0, 1))
    return np.kron(coarse, np.ones((grain, grain), dtype=bool))[:height, :width]


@given(random_masks())
def test_a_mask_survives_the_round_trip_and_agrees_with_the_slow_twin(mask: NDArray[np.bool_]) -> None:
    rle = masks.encode(mask)

    assert rle["counts"] == slow_counts(mask)
    assert np.array_equal(masks.decode(rle), mask)


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        # Worked out by hand from the rules of maskApi.c.
        (np.zeros((4, 5), dtype=bool), "d0"),
        (np.ones((4, 5), dtype=bool), "0d0"),
        (np.eye(3, dtype=bool), "013000"),
    ],
)
def test_known_masks_have_the_known_strings(mask: NDArray[np.bool_], counts: str) -> None:
    assert masks.encode(mask) == {"size": list(mask.shape), "counts": counts}
    assert np.array_equal(masks.decode(masks.encode(mask)), mask)


def test_a_large_mask_with_long_runs_survives() -> None:
    mask = np.zeros((2160, 3840), dtype=bool)
    mask[1000:1100, 5:3000] = True

    assert np.array_equal(masks.decode(masks.encode(mask)), mask)


@pytest.mark.parametrize("counts", ["", "d", "d0P", "\x00", "l" * 20 + "0", "é", "0e0"])
def test_broken_counts_are_refused_with_a_sentence(counts: str) -> None:
    with pytest.raises(ValueError, match="broken run lengths"):
        masks.decode({"size": [4, 5], "counts": counts})


def test_a_mask_that_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="height, width"):
        masks.encode(np.zeros((1, 4, 5), dtype=bool))


def test_a_frame_is_stored_whole_and_read_back(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 3:7] = True

    masks.save_frame(tmp_path, 12, size=(6, 8), objects={1: mask, 7: ~mask})

    assert [path.name for path in tmp_path.iterdir()] == ["000012.json"]
    stored = masks.load_frame(tmp_path, 12)
    assert stored == json.loads((tmp_path / "000012.json").read_text())
    assert stored["frame"] == 12
    assert stored["size"] == [6, 8]
    assert np.array_equal(masks.decode(stored["objects"]["1"]), mask)
    assert np.array_equal(masks.decode(stored["objects"]["7"]), ~mask)


def test_a_frame_that_is_not_made_yet_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        masks.load_frame(tmp_path, 3)
