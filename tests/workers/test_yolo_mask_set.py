"""A data set is made of a video and its masks, once, or refused in a plain sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

cv2 = pytest.importorskip("cv2")
np = pytest.importorskip("numpy")
pytest.importorskip("yaml")

from workers import masks  # noqa: E402 - after the skips
from workers.base import BadInput, JobCancelled  # noqa: E402 - after the skips
from workers.yolo import dataset, mask_set  # noqa: E402 - after the skips
from workers.yolo.params import Masks  # noqa: E402 - after the skips

WIDTH, HEIGHT, FRAMES = 64, 48, 10


def mask(left: int, top: int, right: int, bottom: int) -> Any:
    """Return a mask that fills this box, the last column and row left out."""
    found = np.zeros((HEIGHT, WIDTH), dtype=bool)
    found[top:bottom, left:right] = True
    return found


EMPTY = mask(0, 0, 0, 0)


def film(path: Path, *, frames: int = FRAMES, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 20 * number, np.uint8))
    writer.release()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a video, and masks of two objects: the first is on all frames, the second on the first three."""
    film(tmp_path / "film.mp4")
    (tmp_path / "masks").mkdir()
    for frame in range(FRAMES):
        second = mask(32, 0, 64, 12) if frame < 3 else EMPTY
        masks.save_frame(tmp_path / "masks", frame, size=(HEIGHT, WIDTH), objects={1: mask(16, 12, 48, 36), 2: second})
    return tmp_path


def make(folder: Path, beat: mask_set.Beat = lambda _done, _total: None, **changed: Any) -> Path:
    wanted = Masks(**{"video": "film.mp4", "masks_dir": "masks", **changed})
    return mask_set.make(wanted, folder / "set", base=folder, beat=beat)


def refusal(folder: Path, **changed: Any) -> str:
    with pytest.raises(BadInput) as caught:
        make(folder, **changed)
    return str(caught.value)


def test_frames_become_pictures_and_masks_become_boxes(folder: Path) -> None:
    found = dataset.read(make(folder, classes={"1": "street"}))

    assert found.names == ("street", "object-2")
    assert [picture.name for picture in found.train] == [f"{frame:06d}.jpg" for frame in range(8)]
    assert [picture.name for picture in found.val] == ["000008.jpg", "000009.jpg"]
    assert (folder / "set/labels/train/000000.txt").read_text() == "0 0.500000 0.500000 0.500000 0.500000\n1 0.750000 0.125000 0.500000 0.250000\n"
    assert (folder / "set/labels/val/000009.txt").read_text() == "0 0.500000 0.500000 0.500000 0.500000\n"


def test_each_picture_is_its_own_frame(folder: Path) -> None:
    make(folder)

    for frame in range(FRAMES):
        [file] = folder.glob(f"set/images/*/{frame:06d}.jpg")
        assert cv2.imread(str(file)).mean() == pytest.approx(20 * frame, abs=4)


def test_objects_may_share_a_class(folder: Path) -> None:
    found = dataset.read(make(folder, classes={"1": "person", "2": "person"}))

    assert found.names == ("person",)
    assert [line[:2] for line in (folder / "set/labels/train/000000.txt").read_text().splitlines()] == ["0 ", "0 "]


def test_every_so_manieth_frame_is_taken_and_more_may_be_held_out(folder: Path) -> None:
    found = dataset.read(make(folder, every=3, val_share=0.5))

    assert [picture.stem for picture in (*found.train, *found.val)] == ["000000", "000003", "000006", "000009"]
    assert len(found.val) == 2


def test_a_part_of_a_video_and_frames_without_objects_are_fine(folder: Path) -> None:
    for frame in (0, 1):
        masks.frame_file(folder / "masks", frame).unlink()
    masks.save_frame(folder / "masks", 9, size=(HEIGHT, WIDTH), objects={1: EMPTY})

    found = dataset.read(make(folder))

    assert [picture.stem for picture in found.train] == [f"{frame:06d}" for frame in range(2, 8)]
    assert [picture.stem for picture in found.val] == ["000008", "000009"], "a frame that shows nothing belongs where its neighbours are"
    assert (folder / "set/labels/val/000009.txt").read_text() == ""


def test_it_is_not_made_again_when_it_is_whole(folder: Path) -> None:
    yaml = make(folder)
    seen: list[int] = []

    assert make(folder, lambda done, _total: seen.append(done)) == yaml

    assert seen == []


def spoil_mark(folder: Path) -> None:
    (folder / "set/made").unlink()


def newer_video(folder: Path) -> None:
    film(folder / "film.mp4", frames=FRAMES + 1)


def newer_masks(folder: Path) -> None:
    masks.save_frame(folder / "masks", 3, size=(HEIGHT, WIDTH), objects={1: mask(0, 0, 64, 48)})


@pytest.mark.parametrize("change", [spoil_mark, newer_video, newer_masks])
def test_it_is_made_afresh_when_it_is_not_whole_or_of_something_else(folder: Path, change: Callable[[Path], None]) -> None:
    make(folder)
    (folder / "set/images/train/leftover.jpg").touch()
    change(folder)

    make(folder)

    assert not (folder / "set/images/train/leftover.jpg").exists()


def test_progress_moves_at_each_mask_and_each_frame_and_an_order_stops_it(folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    make(folder, lambda done, total: seen.append((done, total)))

    assert [done for done, total in seen if total == 2 * FRAMES] == list(range(10)) + list(range(11, 21))

    def stop(done: int, _total: int) -> None:
        if done == 15:
            raise JobCancelled("cancelled")

    spoil_mark(folder)
    with pytest.raises(JobCancelled):
        make(folder, stop)
    assert not (folder / "set/made").exists()
    assert dataset.read(make(folder)).names == ("object-1", "object-2")


def no_masks(folder: Path) -> None:
    for file in (folder / "masks").iterdir():
        file.rename(folder / file.name)


def all_empty(folder: Path) -> None:
    for frame in range(FRAMES):
        masks.save_frame(folder / "masks", frame, size=(HEIGHT, WIDTH), objects={1: EMPTY})


def one_shows(folder: Path) -> None:
    all_empty(folder)
    masks.save_frame(folder / "masks", 4, size=(HEIGHT, WIDTH), objects={1: mask(0, 0, 9, 9)})


def frame_missing(folder: Path) -> None:
    masks.save_frame(folder / "masks", FRAMES + 5, size=(HEIGHT, WIDTH), objects={1: mask(0, 0, 9, 9)})


def other_size(folder: Path) -> None:
    film(folder / "film.mp4", size=(80, 60))


def torn(folder: Path) -> None:
    masks.frame_file(folder / "masks", 3).write_text('{"frame":3,"size":[48,64],"obj')


def broken_runs(folder: Path) -> None:
    masks.frame_file(folder / "masks", 3).write_text('{"frame":3,"size":[48,64],"objects":{"1":{"size":[48,64],"counts":"d0"}}}')


def no_object(folder: Path) -> None:
    masks.frame_file(folder / "masks", 3).write_text('{"frame":3,"size":[48,64],"objects":{"one":{"size":[48,64],"counts":"d0"}}}')


@pytest.mark.parametrize(
    ("spoil", "changed", "says"),
    [
        (no_masks, {}, "has no masks. Expected: files such as 000000.json"),
        (all_empty, {}, "all masks of the 10 frames in masks are empty"),
        (one_shows, {}, "1 of 10 frames shows an object, at least 2 were expected"),
        (frame_missing, {}, "is of frame 15, but"),
        (other_size, {}, "64 x 48 pixels, the frames of"),
        (torn, {}, "000003.json cannot be read"),
        (broken_runs, {}, "000003.json cannot be read (broken run lengths"),
        (no_object, {}, "000003.json cannot be read"),
        (lambda _folder: None, {"every": 10}, "Take more frames (every = 1)."),
        (lambda _folder: None, {"masks_dir": "nowhere"}, 'masks.masks_dir = "nowhere" does not exist, neither in the folder'),
        (lambda _folder: None, {"masks_dir": "film.mp4"}, "film.mp4 is a file"),
        (lambda _folder: None, {"video": "none.mp4"}, 'masks.video = "none.mp4" does not exist, neither in the folder'),
        (lambda _folder: None, {"video": "masks/000000.json"}, "is no video that can be opened"),
        (lambda _folder: None, {"classes": {"3": "bus"}}, "masks.classes names object '3', but the masks show the objects 1, 2"),
        (lambda _folder: None, {"classes": {"street": "1"}}, "masks.classes names object 'street'"),
    ],
)
def test_what_cannot_become_a_data_set_is_refused_in_one_sentence(folder: Path, spoil: Callable[[Path], None], changed: dict[str, Any], says: str) -> None:
    spoil(folder)

    assert says in refusal(folder, **changed)
    assert not (folder / "set/made").exists()
