"""The SAM worker segments, follows, is interrupted and goes on, with a real (untrained, small) network on real pictures."""

import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="needs the extra models"),
]

FRAMES = 12
MEMORY_MIB = 256  # what a job may leave behind


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sam")


@pytest.fixture(scope="module")
def told(root: Path) -> dict[str, Any]:
    checkout = Path(__file__).parents[3]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout), "HOME": str(root), "ROOT": str(root), "OMP_NUM_THREADS": "1"}
    with (root / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("sam_story.py"))], env=environment, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=880
        )
    assert done.returncode == 0, (root / "log").read_text(errors="replace")[-4000:]
    found: dict[str, Any] = json.loads((root / "told.json").read_text())
    return found


def test_an_untrained_network_is_said_in_the_note_the_log_and_the_result(told: dict[str, Any], root: Path) -> None:
    result = told["videos"]["whole"]["result"]

    assert told["note"].startswith("UNTRAINED NETWORK")
    assert result["note"] == told["note"]
    assert result["trained"] is False
    assert f"sam.propagate whole: {told['note']}" in (root / "log").read_text()


def test_nothing_reaches_for_the_network(told: dict[str, Any]) -> None:
    assert told["reached"] == []


def test_a_propagation_tells_what_it_did_and_leaves_only_masks(told: dict[str, Any], root: Path) -> None:
    whole = told["videos"]["whole"]

    assert whole["result"].items() >= {"frames": FRAMES, "objects": [1, 2], "size": [90, 160], "reused": {"encode": 0, "propagate": 0}}.items()
    assert whole["result"]["masks_dir"] == str(root / "whole" / "masks")
    assert whole["result"]["fps"] > 0
    assert whole["files"] == ["masks"]
    assert told["videos"]["stored_objects"] == [["1", "2"]] * FRAMES
    assert told["videos"]["not_empty"]
    assert told["videos"]["disjoint"]


def test_progress_moves_at_each_frame_to_40_percent_and_on_to_100(told: dict[str, Any]) -> None:
    seen = told["videos"]["whole"]["progress"]

    encode = [percent for percent, phase in seen if phase == "encode"]
    propagate = [percent for percent, phase in seen if phase == "propagate"]
    assert len(encode) == len(propagate) == FRAMES + 1
    assert (encode[0], encode[-1], propagate[0], propagate[-1]) == (0, 40, 40, 100)
    assert all(before < after for phase in (encode, propagate) for before, after in pairwise(phase))


def test_the_same_job_gives_the_same_masks(told: dict[str, Any]) -> None:
    assert told["videos"]["again_same"]


def test_masks_from_spooled_features_agree_with_the_streaming_predictor(told: dict[str, Any]) -> None:
    # Features in half precision move a pixel here and there: 0.9998 for one object; 0.99 where two compete for the border.
    assert told["videos"]["stream_box"] > 0.999
    assert told["videos"]["stream_two"] > 0.98


def test_a_part_of_a_video_has_each_object_from_its_first_prompt_on(told: dict[str, Any]) -> None:
    assert told["videos"]["part"]["result"]["frames"] == 5
    assert told["videos"]["part_files"] == [f"{frame:06d}.json" for frame in range(3, 8)]
    assert told["videos"]["part_objects"] == [[], ["1"], ["1"], ["1", "9"], ["1", "9"]]


def test_a_cancel_takes_effect_within_one_frame_and_masks_made_so_far_stay(told: dict[str, Any]) -> None:
    encode, propagate = told["interruptions"]["encode"], told["interruptions"]["propagate"]

    assert encode["cancelled"]
    assert encode["progress"][-1] == [20.0, "encode"]
    assert propagate["cancelled"]
    assert propagate["progress"][-1] == [70.0, "propagate"]
    assert told["interruptions"]["masks_after"] == FRAMES // 2


def test_the_next_attempt_goes_on_and_ends_with_the_same_masks(told: dict[str, Any]) -> None:
    assert told["interruptions"]["propagate"]["progress"][0] == [20.0, "encode"]
    assert told["interruptions"]["end"]["result"]["reused"] == {"encode": FRAMES, "propagate": FRAMES // 2}
    assert told["interruptions"]["same"]
    assert "features.spool" not in told["interruptions"]["end"]["files"]


def test_a_pause_while_it_encodes_keeps_the_frames_that_are_encoded(told: dict[str, Any]) -> None:
    pauses = told["pauses"]

    assert pauses["encode"]["progress"][-1] == [20.0, "encode"]
    assert pauses["encode"]["paused"]
    assert pauses["propagate"]["progress"][0] == [20.0, "encode"]


def test_a_pause_while_it_follows_waits_one_frame_and_not_for_the_next_turn_to_save(told: dict[str, Any]) -> None:
    pauses = told["pauses"]

    assert pauses["propagate"]["paused"] == "paused at its checkpoint"
    assert pauses["propagate"]["progress"][-1] == [70.0, "propagate"]
    assert pauses["masks_after"] == FRAMES // 2 + 1
    assert {"checkpoint", "features.spool", "masks"} <= set(pauses["propagate"]["files"])
    assert pauses["end"]["result"]["reused"] == {"encode": FRAMES, "propagate": FRAMES // 2 + 1}
    assert pauses["same"]


def test_a_worker_that_must_leave_at_once_saves_the_frame_at_hand(told: dict[str, Any]) -> None:
    pauses = told["pauses"]

    assert pauses["leaves"]["leaves"] == "the worker was asked to stop"
    assert pauses["after_leaving"]["result"]["reused"] == {"encode": FRAMES, "propagate": FRAMES // 2 + 1}
    assert pauses["same_after_leaving"]


@pytest.mark.parametrize("fault", ["lost", "torn"])
def test_the_next_attempt_tracks_anew_when_masks_or_checkpoint_are_damaged(told: dict[str, Any], fault: str) -> None:
    assert told["interruptions"][fault]["result"]["reused"] == {"encode": FRAMES, "propagate": 0}
    assert told["interruptions"]["torn_same"]


def test_nothing_is_used_again_when_the_video_changed(told: dict[str, Any]) -> None:
    assert told["interruptions"]["changed"]["result"]["reused"] == {"encode": 0, "propagate": 0}
    assert told["interruptions"]["changed_masks"] == FRAMES - 2


def test_a_second_click_on_an_image_encodes_nothing(told: dict[str, Any]) -> None:
    clicks = told["clicks"]

    assert [clicks[name]["result"]["cached"] for name in ("first", "second", "box", "boxes", "multimask", "changed")] == [False, True, True, True, True, False]
    assert [len(clicks[name]["result"]["masks"]) for name in ("first", "second", "box", "boxes", "multimask")] == [1, 1, 1, 2, 3]
    assert clicks["first"]["result"]["size"] == clicks["shape"] == [90, 160]


def test_a_mask_comes_with_its_score_area_and_box(told: dict[str, Any]) -> None:
    for mask in told["clicks"]["multimask"]["result"]["masks"]:
        left, top, right, bottom = mask["box"]
        assert 0 <= mask["score"] <= 1
        assert 0 < mask["area"] <= (right - left + 1) * (bottom - top + 1)
        assert 0 <= left <= right < 160
        assert 0 <= top <= bottom < 90


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("text", "is no video that can be opened"),
        ("cut", "is no video that can be opened"),
        ("missing", "there is no file"),
        ("outside", "point 0 at (160, 5) lies outside"),
        ("late", "frame 12 is not there, the job covers the frames 0 to 11"),
        ("beyond", "first_frame = 17 is not there"),
        ("none", "prompts is empty"),
        ("picture", "is no picture that can be decoded"),
        ("point", "lies outside"),
        ("nothing", "neither points nor boxes"),
    ],
)
def test_bad_input_is_refused_with_a_sentence_and_leaves_nothing(told: dict[str, Any], case: str, sentence: str) -> None:
    assert sentence in told["refusals"][case]["refused"]
    assert told["refusals"][case]["files"] == []


def test_memory_is_back_after_each_job(told: dict[str, Any]) -> None:
    ends = [
        *(told["videos"][name] for name in ("whole", "again", "part")),
        *(told["interruptions"][name] for name in ("encode", "propagate", "end")),
        *(told["clicks"][name] for name in ("first", "second", "changed")),
    ]

    assert max(end["left_mib"] for end in ends) < MEMORY_MIB


def test_weights_from_a_file_give_what_the_network_they_came_from_gave(told: dict[str, Any]) -> None:
    assert told["networks"]["trained"] is True
    assert told["networks"]["trained_same"]


def test_the_file_name_alone_picks_the_network(told: dict[str, Any]) -> None:
    assert told["networks"]["meta"] == "sam2.1_t.pt"
    assert told["networks"]["folder_trap"]


def test_mobile_sam_clicks_but_does_not_follow(told: dict[str, Any]) -> None:
    assert told["networks"]["mobile"] == 1
    assert "segments images only" in told["networks"]["mobile_video"]


def test_options_of_the_tracker_do_something(told: dict[str, Any]) -> None:
    assert told["networks"]["bank_rows"]
    assert told["networks"]["bank_differs"]
    assert told["networks"]["raw_overlaps"]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("wrong file", "WeightsError: Weights refused: .*sam2_t.pt does not fit the network"),
        ("no name", "WeightsError: .*film.mp4.* does not say which network"),
        ("quantize", "OptionError: quantize = true means half precision"),
        ("device", 'OptionError: device = "tpu" is unknown'),
        ("size", 'OptionError: model_size = "huge" is unknown'),
        ("size of a file", 'OptionError: model_size = "l" does not fit'),
        ("not there", 'WeightsError: No weights: "sam2.1_b.pt"'),
    ],
)
def test_options_that_cannot_work_are_refused_with_a_sentence(told: dict[str, Any], case: str, sentence: str) -> None:
    import re

    assert re.match(sentence, told["networks"]["refused"][case])
