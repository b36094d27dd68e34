"""The spool gives back what was put in, and trusts nothing else that it finds on disk."""

from pathlib import Path

import pytest

pytest.importorskip("numpy")

import numpy as np
from numpy.typing import NDArray

from workers.sam.spool import Spool

SHAPES = [(1, 2, 4, 4), (1, 3, 2, 2)]


def features(seed: int) -> list[NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float16) for shape in SHAPES]


def opened(path: Path, *, identity: str = "a video") -> Spool:
    return Spool(path, identity=identity, shapes=SHAPES, check=lambda: None)


def filled(path: Path, *, frames: int) -> None:
    with opened(path) as spool:
        for seed in range(frames):
            spool.append(features(seed))


def test_features_come_back_bit_by_bit_in_any_order(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        for seed in range(5):
            spool.append(features(seed))

        for seed in (4, 0, 2):
            assert all(np.array_equal(kept, made) for kept, made in zip(spool.read(seed), features(seed), strict=True))
        with pytest.raises(IndexError):
            spool.read(5)


def test_the_next_attempt_finds_the_frames_of_the_one_before_and_adds_to_them(tmp_path: Path) -> None:
    filled(tmp_path / "spool", frames=3)

    with opened(tmp_path / "spool") as spool:
        assert spool.frames == 3
        spool.append(features(3))
        assert np.array_equal(spool.read(0)[1], features(0)[1])
        assert np.array_equal(spool.read(3)[0], features(3)[0])


def test_a_half_written_record_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, frames=3)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)

    with opened(path) as spool:
        assert spool.frames == 2


def test_a_record_that_lost_its_bytes_is_dropped_with_all_after_it(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    filled(path, frames=4)
    with opened(path) as spool:
        length = spool.record_bytes
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 3 * length + 7)
        file.write(bytes(9))

    with opened(path) as spool:
        assert spool.frames == 1


def test_the_spool_of_another_video_is_not_used(tmp_path: Path) -> None:
    filled(tmp_path / "spool", frames=3)

    with opened(tmp_path / "spool", identity="another video") as spool:
        assert spool.frames == 0
        assert (tmp_path / "spool").stat().st_size <= 4096


def test_features_of_another_shape_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool, pytest.raises(ValueError, match="were expected"):
        spool.append(features(0)[:1])


def test_more_frames_than_the_disk_holds_are_refused_with_the_numbers(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        spool.require_room(10)
        with pytest.raises(OSError, match="GiB free, and the features of 1000000000000 frames need"):
            spool.require_room(10**12)
