"""The sample video and data set are the same each time, and their labels are where the objects are."""

import importlib.util
import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

cv2 = pytest.importorskip("cv2")
np = pytest.importorskip("numpy")
if importlib.util.find_spec("ultralytics") is None:  # looked for, not imported: an import writes settings and looks for a network
    pytest.skip("needs the photographs that ship with ultralytics", allow_module_level=True)

from workers import samples  # noqa: E402 - after the skips
from workers.outlines import CLASSES, OUTLINES, TORSO  # noqa: E402 - after the skips

pytestmark = pytest.mark.models


def test_outlines_lie_on_their_photographs() -> None:
    for name, outlines in OUTLINES.items():
        height, width = samples.photograph(name).shape[:2]
        for label, points in outlines:
            assert label in CLASSES
            assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_a_camera_that_sees_the_whole_photograph_finds_each_object_where_it_was_measured() -> None:
    whole = samples.Camera(x=640, y=360, width=1280, turn=0)

    found = samples.boxes("zidane", whole, (1280, 720))

    assert found == [(0, (120.0, 203.0, 1152.0, 720.0)), (0, (752.0, 42.0, 1136.0, 720.0))]


def test_a_mirrored_camera_finds_them_mirrored() -> None:
    mirrored = samples.Camera(x=640, y=360, width=1280, turn=0, mirrored=True)

    found = samples.boxes("zidane", mirrored, (1280, 720))

    assert found is not None
    assert found[1][1] == pytest.approx((1280 - 1136, 42, 1280 - 752, 720))


def test_what_leaves_the_picture_is_cut_off_and_what_shows_too_little_puts_the_picture_aside() -> None:
    half = samples.Camera(x=580, y=500, width=300, turn=0)
    sliver = samples.Camera(x=300, y=130, width=300, turn=0)

    cut = samples.boxes("bus", half, (300, 300))

    assert cut is not None
    assert [label for label, _ in cut] == [CLASSES.index("bus")]
    assert cut[0][1][0] == 0
    assert cut[0][1][2] == 300
    assert samples.boxes("bus", sliver, (300, 300)) is None


@pytest.mark.slow
def test_the_data_set_is_the_same_each_time_and_its_parts_are_apart(tmp_path: Path) -> None:
    first, second = (samples.dataset(tmp_path / name) for name in "ab")

    def content(yaml: Path) -> dict[str, bytes]:
        return {str(file.relative_to(yaml.parent)): file.read_bytes() for file in yaml.parent.rglob("*.*") if file != yaml}

    assert content(first) == content(second)
    assert len(list((tmp_path / "a/images/train").iterdir())) == 88
    assert len(list((tmp_path / "a/images/val").iterdir())) == 24
    random = np.random.default_rng(7)
    held_out = samples._views(random, 24, avoid=[])
    shown = samples._views(random, 88, avoid=held_out)
    assert all(one != two or samples._overlap(a, b) <= samples.OVERLAP for (one, a), (two, b) in product(held_out, shown))


def test_the_data_set_passes_the_worker_s_own_check(tmp_path: Path) -> None:
    from workers.yolo import dataset

    found = dataset.read(samples.dataset(tmp_path, train=6, val=3))

    assert (len(found.train), len(found.val), found.names) == (6, 3, CLASSES)


def test_the_video_shows_the_man_where_it_says(tmp_path: Path) -> None:
    made = samples.video(tmp_path / "street.mp4", frames=6)

    capture = cv2.VideoCapture(str(made.path))
    frames = [capture.read() for _ in range(7)]

    assert [read for read, _ in frames] == [True] * 6 + [False]
    assert frames[0][1].shape == (360, 640, 3)
    assert made.prompt == made.torso[0]
    photo = samples.photograph("bus")
    coat = photo[int(TORSO[1]) - 3 : int(TORSO[1]) + 4, int(TORSO[0]) - 3 : int(TORSO[0]) + 4].mean()
    for (_, frame), (x, y) in zip(frames, made.torso, strict=False):
        assert 0 < x < 640
        assert 0 < y < 360
        seen = frame[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].mean()
        assert seen == pytest.approx(coat, abs=12)  # a black coat before a blue bus; mp4 blurs a little


@pytest.mark.slow
def test_the_command_writes_both_and_says_what_they_are(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers.samples", str(tmp_path)], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60
    )

    about = json.loads((tmp_path / "samples.json").read_text())
    assert about["video"]["frames"] == 150
    assert Path(about["video"]["path"]).is_file()
    assert about["prompt"] == about["video"]["torso"][0]
    assert about["train_params"]["data"] == about["data"]
    assert "click on" in done.stdout
