"""The operator's word on workers: kept over a new start, taken back, and never guessed."""

from pathlib import Path

import pytest

from supervisor.adapters.wanted_file import WantedFile
from supervisor.core.model import Wanted, WorkerName
from supervisor.errors import StoreError

pytestmark = pytest.mark.asyncio

SAM, YOLO = WorkerName("sam-0"), WorkerName("yolo-0")


async def test_a_word_is_found_again_and_one_that_was_taken_back_is_not(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    await WantedFile(path).save({SAM: Wanted.DOWN, YOLO: Wanted.UP})
    assert WantedFile(path).words() == {SAM: Wanted.DOWN, YOLO: Wanted.UP}

    await WantedFile(path).save({SAM: None})

    assert WantedFile(path).words() == {YOLO: Wanted.UP}
    assert not path.with_suffix(".partial").exists()


async def test_without_a_word_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    wanted = WantedFile(path)

    await wanted.save({SAM: None})

    assert wanted.words() == {}
    assert not path.exists()


async def test_a_word_that_cannot_be_written_is_an_error_and_is_written_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "wanted.json"
    wanted = WantedFile(path)
    path.with_suffix(".partial").mkdir()  # in the way

    with pytest.raises(StoreError, match=r"wanted\.partial"):
        await wanted.save({SAM: Wanted.DOWN})

    path.with_suffix(".partial").rmdir()
    await wanted.save({YOLO: Wanted.DOWN})
    assert WantedFile(path).words() == {SAM: Wanted.DOWN, YOLO: Wanted.DOWN}


@pytest.mark.parametrize("found", ["", "{", '{"sam-0": "sideways"}', "[]"])
async def test_a_file_that_says_nothing_clear_is_refused_with_what_to_do(tmp_path: Path, found: str) -> None:
    path = tmp_path / "wanted.json"
    path.write_text(found)

    with pytest.raises(StoreError, match="mend it, or remove it and stop them again"):
        WantedFile(path)
