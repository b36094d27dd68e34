"""What the SAM worker is asked is checked before any network runs, and each refusal says what to do."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from workers.base import BadInput
from workers.given import existing_file
from workers.sam.requests import Prompt, PropagateParams, SamOptions, SegmentParams, check_prompts, check_prompts_fit, check_segment

SIZE = (90, 160)  # height, width


@pytest.mark.parametrize(
    "params",
    [
        {"points": [[0, 0]]},
        {"points": [[159, 89], [1, 1]], "labels": [1, 0]},
        {"boxes": [[0, 0, 160, 90], [1, 1, 2, 2]]},
        {"boxes": [[5, 5, 50, 50]], "points": [[20, 20]], "labels": [0]},
    ],
)
def test_prompts_inside_the_picture_are_accepted(params: dict[str, Any]) -> None:
    check_segment(msgspec.convert({"image": "/x.png", **params}, SegmentParams), size=SIZE)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "neither points nor boxes"),
        ({"points": [[160, 5]]}, r"point 0 at \(160, 5\) lies outside: the picture is 160 x 90 pixels, so x must be from 0 to 159"),
        ({"points": [[5, -1]]}, "lies outside"),
        ({"points": [[5, float("nan")]]}, "lies outside"),
        ({"points": [[5, 5]], "labels": [1, 0]}, "1 points came with 2 labels"),
        ({"points": [[5, 5]], "labels": [0]}, "all 1 points are background"),
        ({"boxes": [[50, 5, 50, 60]]}, "box 0 .* is empty"),
        ({"boxes": [[5, 5, 161, 60]]}, "box 0 .* reaches outside"),
        ({"boxes": [[5, 5, float("inf"), 60]]}, "box 0 .* reaches outside"),
        ({"points": [[5, 5]], "boxes": [[1, 1, 9, 9], [2, 2, 8, 8]]}, "with 2 boxes, and it is unclear"),
    ],
)
def test_prompts_of_an_image_that_cannot_work_are_refused(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_segment(msgspec.convert({"image": "/x.png", **params}, SegmentParams), size=SIZE)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([], "prompts is empty"),
        ([{}], r"prompts\[0\]: neither points nor a box"),
        ([{"points": [[1, 1]]}, {"points": [[2, 2]]}], r"prompts\[1\]: object 1 has a prompt on frame 0 already"),
    ],
)
def test_prompts_of_a_video_are_checked_before_it_is_open(prompts: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_prompts(msgspec.convert({"video": "/x.mp4", "prompts": prompts}, PropagateParams))


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (Prompt(frame=12, points=[[1, 1]]), r"prompts\[0\]: frame 12 is not there, the job covers the frames 3 to 11"),
        (Prompt(frame=2, points=[[1, 1]]), "frame 2 is not there"),
        (Prompt(frame=3, points=[[200, 1]]), "lies outside"),
        (Prompt(frame=3, box=[10, 10, 5, 5]), "is empty"),
    ],
)
def test_prompts_must_fit_the_video(prompt: Prompt, sentence: str) -> None:
    params = PropagateParams(video="/x.mp4", prompts=[prompt], first_frame=3)

    check_prompts(params)
    with pytest.raises(BadInput, match=sentence):
        check_prompts_fit(params, size=SIZE, end=12)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        (SegmentParams, {"image": "/x.png", "points": [[1]]}),
        (SegmentParams, {"image": "/x.png", "points": [[1, 2]], "labels": [2]}),
        (SegmentParams, {"points": [[1, 2]]}),
        (PropagateParams, {"video": "/x.mp4", "prompts": [{"frame": -1}]}),
        (PropagateParams, {"video": "/x.mp4"}),
        (SamOptions, {"image_size": 1000}),
        (SamOptions, {"memory_bank_size": 8}),
    ],
)
def test_values_of_the_wrong_shape_do_not_convert(shape: type[msgspec.Struct], values: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, shape)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()

    for path, sentence in [
        ("", 'video = "" is empty'),
        (str(tmp_path), "is a folder"),
        ("film.mp4", 'video = "film.mp4" does not exist in the folder where the job was submitted, and the worker looks in no other'),
        (str(tmp_path / "none.mp4"), "there is no file"),
        (str(tmp_path / "empty.mp4"), "0 bytes"),
    ]:
        with pytest.raises(BadInput, match=sentence):
            existing_file(path, what="video")
