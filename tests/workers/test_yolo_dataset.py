"""A bad data set is refused in plain sentences before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("yaml")
Image = pytest.importorskip("PIL.Image")

from workers.base import BadInput  # noqa: E402 - after the skips
from workers.yolo import dataset  # noqa: E402 - after the skips
from workers.yolo.labels import check_labels, label_file  # noqa: E402 - after the skips

GOOD = "0 0.5 0.5 0.2 0.2\n"


def write_set(root: Path, *, pictures: int = 2, label: str = GOOD) -> Path:
    for part in ("train", "val"):
        for folder in ("images", "labels"):
            (root / folder / part).mkdir(parents=True)
        for index in range(pictures):
            Image.new("RGB", (32, 24)).save(root / "images" / part / f"{index}.jpg")
            (root / "labels" / part / f"{index}.txt").write_text(label)
    yaml = root / "data.yaml"
    yaml.write_text("train: images/train\nval: images/val\nnames: [person, bus]\n")
    return yaml


def refusal(data: Path) -> str:
    with pytest.raises(BadInput) as caught:
        dataset.read(data)
    return str(caught.value)


def test_a_good_set_is_read_by_its_yaml_and_by_its_folder(tmp_path: Path) -> None:
    yaml = write_set(tmp_path)

    found = dataset.read(yaml)

    assert found.names == ("person", "bus")
    assert [picture.name for picture in found.train] == ["0.jpg", "1.jpg"]
    assert dataset.read(tmp_path) == found


def test_path_is_relative_to_the_yaml_and_names_may_be_numbered(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    yaml = tmp_path / "my.yaml"
    yaml.write_text("path: set\ntrain: images/train\nval: [images/val]\nnames: {0: person, 1: bus}\nnc: 2\n")

    found = dataset.read(yaml)

    assert found.val[0] == tmp_path / "set/images/val/0.jpg"


def test_a_list_of_pictures_is_read(tmp_path: Path) -> None:
    yaml = write_set(tmp_path)
    (tmp_path / "one.txt").write_text("./images/train/1.jpg\n\n")
    yaml.write_text("train: one.txt\nval: images/val\nnames: [person, bus]\n")

    assert [picture.name for picture in dataset.read(yaml).train] == ["1.jpg"]


def test_what_the_trainer_gets_has_whole_paths_and_nothing_to_download(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set")
    yaml.write_text(yaml.read_text() + "download: print('never run')\n")

    written = dataset.read(yaml).write(tmp_path / "job")

    assert "download" not in written.read_text()
    assert (tmp_path / "job/train.txt").read_text().splitlines()[0] == str(tmp_path / "set/images/train/0.jpg")
    assert len(dataset.read(written).train) == 2


def test_each_picture_looked_at_is_reported_and_the_report_may_stop_it(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    dataset.read(write_set(tmp_path), beat=lambda done, total: seen.append((done, total)))

    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds nothing"),
        ("train: [", "is not YAML"),
        ("- a\n- b\n", "holds a list"),
        ("val: images/val\nnames: [a]\n", "has no `train`"),
        ("train: images/train\nnames: [a]\n", "has no `val`"),
        ("train: images/train\nval: images/val\n", "has no `names`"),
        ("train: images/train\nval: images/val\nnmes: [a]\n", "Is nmes meant?"),
        ("train: images/train\nval: images/val\nnames: [a]\nnc: 3\n", "nc is 3, but names has 1"),
        ("train: images/train\nval: images/val\nnames: {0: a, 2: b}\n", "Expected: 0 to 1, none left out"),
        ("train: images/train\nval: images/val\nnames: {a: b}\n", "Expected: whole numbers from 0"),
        ("train: images/train\nval: images/val\nnames: person\n", "Expected: a list of class names"),
        ("train: images/trian\nval: images/val\nnames: [a, b]\n", "images/trian does not exist"),
        ("train: 7\nval: images/val\nnames: [a, b]\n", "train is 7"),
        ("train: data.yaml\nval: images/val\nnames: [a, b]\n", "is neither a folder nor a .txt list"),
        ("path: nowhere\ntrain: images/train\nval: images/val\nnames: [a, b]\n", "path says nowhere"),
    ],
)
def test_a_bad_description_is_refused(tmp_path: Path, content: str, words: str) -> None:
    yaml = write_set(tmp_path)
    yaml.write_text(content)

    message = refusal(yaml)

    assert words in message
    assert str(yaml) in message


def test_a_missing_path_an_empty_folder_and_several_yamls_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / "two" / name).touch()

    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "the folder is empty" in refusal(tmp_path / "empty")
    assert "2 yaml files (a.yaml, b.yaml)" in refusal(tmp_path / "two")


def no_labels(root: Path) -> None:
    for file in (root / "labels/train").iterdir():
        file.unlink()


def no_pictures(root: Path) -> None:
    for file in (root / "images/val").iterdir():
        file.unlink()


def cut_off(root: Path) -> None:
    whole = (root / "images/train/0.jpg").read_bytes()
    (root / "images/train/0.jpg").write_bytes(whole[: len(whole) // 2])


def no_picture(root: Path) -> None:
    (root / "images/train/0.jpg").write_text("hello")


def tiny(root: Path) -> None:
    Image.new("RGB", (5, 5)).save(root / "images/train/0.jpg")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_labels, "train: none of its 2 pictures has a label"),
        (no_pictures, "has no pictures"),
        (cut_off, "0.jpg: cannot be read"),
        (no_picture, "0.jpg: is no picture (5 bytes of another kind)"),
        (tiny, "has 5 x 5 pixels"),
    ],
)
def test_bad_pictures_are_refused(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    yaml = write_set(tmp_path)
    spoil(tmp_path)

    assert words in refusal(yaml)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0.5 0.5 0.2", "found 4 values"),
        ("0 0.5 0.5 0.2 0.2 0.9", "found 6 values"),
        ("0 0.5 0.5 0.2 wide", "expected numbers"),
        ("0 0.5 0.5 0.2 nan", "expected finite numbers"),
        ("2 0.5 0.5 0.2 0.2", "found class 2, expected a whole number from 0 to 1 (person, bus)"),
        ("-1 0.5 0.5 0.2 0.2", "found class -1"),
        ("0.5 0.5 0.5 0.2 0.2", "found class 0.5"),
        ("0 320 0.5 0.2 0.2", "found 320"),
        ("0 -0.2 0.5 0.2 0.2", "found -0.2"),
        ("0 0.5 0.5 0 0.2", "found a box of 0 x 0.2"),
        ("0 0.1 0.1 0.9 0.1 0.5 0.9", "boxes and outlines in one file"),
    ],
)
def test_a_bad_label_line_is_named_with_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    yaml = write_set(tmp_path)
    file = tmp_path / "labels/train/1.txt"
    file.write_text(f"{GOOD}{line}\n")

    message = refusal(yaml)

    assert f"{file}:2: " in message
    assert words in message
    assert message.startswith(f"data set {yaml}: 1 problem, nothing was trained.")


def test_of_many_problems_five_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    yaml = write_set(tmp_path, pictures=4, label="9 0.5 0.5 0.2 0.2\n")

    message = refusal(yaml)

    assert message.startswith(f"data set {yaml}: 8 problems, nothing was trained.")
    assert message.count("found class 9") == 5
    assert message.endswith("... and 3 more")


def test_backgrounds_outlines_and_rounding_are_fine(tmp_path: Path) -> None:
    yaml = write_set(tmp_path)
    (tmp_path / "labels/train/0.txt").unlink()
    (tmp_path / "labels/train/1.txt").write_text("\ufeff1 0 0 1.0001 0 0.5 0.7\n\n")
    (tmp_path / "labels/val/0.txt").write_text("")

    assert len(dataset.read(yaml).train) == 2
    assert check_labels(tmp_path / "labels/train/1.txt", classes=("person", "bus")) == (1, [])


def test_labels_lie_where_ultralytics_looks_for_them() -> None:
    assert label_file(Path("/a/images/b/images/c.d.jpg")) == Path("/a/images/b/labels/c.d.txt")
    assert label_file(Path("/a/b/c.png")) == Path("/a/b/c.txt")
