"""The YOLO worker trains, resumes, cancels and predicts, with a real (untrained, small) network on real pictures."""

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

MEMORY_MIB = 256  # what a job may leave behind


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yolo")


@pytest.fixture(scope="module")
def told(root: Path) -> dict[str, Any]:
    checkout = Path(__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(checkout), "HOME": str(root), "ROOT": str(root), "OMP_NUM_THREADS": "1"}
    with (root / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("yolo_story.py"))], env=environment, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=880
        )
    assert done.returncode == 0, (root / "log").read_text(errors="replace")[-4000:]
    found: dict[str, Any] = json.loads((root / "told.json").read_text())
    return found


def test_a_training_reports_each_batch_on_one_scale_for_the_whole_job(told: dict[str, Any]) -> None:
    whole = told["whole"]

    assert whole["phases"] == ["check data set", "train", "validate"]
    trained = [done for done in whole["done"] if done > 1]
    assert trained == sorted(trained)
    assert set(range(2, 15)) <= {round(done) for done in trained}  # 1 for the check, 3 epochs of 3 + 1 batches, 1 for the best network
    assert trained[-1] == whole["total"] == 14


def test_a_training_gives_metrics_each_epoch_and_at_the_end(told: dict[str, Any], root: Path) -> None:
    whole, result = told["whole"], told["whole"]["result"]

    assert [metrics["epoch"] for metrics in whole["metrics"]] == [1, 2, 3]
    assert all(set(metrics) == {"epoch", "loss", "precision", "recall", "mAP50", "mAP50_95"} for metrics in whole["metrics"])
    assert set(result["metrics"]) == {"precision", "recall", "mAP50", "mAP50_95"}
    assert (result["epochs"], result["images"], result["val_images"], result["classes"]) == (3, 12, 6, ["person", "bus"])
    assert result["resumed_from_epoch"] is None
    assert Path(result["weights"]).is_relative_to(root / "whole")
    assert Path(result["weights"]).is_file()
    assert Path(result["results_csv"]).is_file()


def test_an_untrained_network_is_said_in_capitals_in_log_and_result(told: dict[str, Any], root: Path) -> None:
    assert told["note"].startswith("UNTRAINED NETWORK")
    assert told["whole"]["result"]["trained"] is False
    assert told["whole"]["result"]["note"].startswith("UNTRAINED NETWORK")
    assert told["predicted_untrained"]["note"].startswith("UNTRAINED NETWORK")
    assert "UNTRAINED NETWORK" in (root / "log").read_text(errors="replace")


def test_a_cancel_in_training_and_in_validation_stops_at_once(told: dict[str, Any]) -> None:
    assert told["cancel_train"]["words_after"] == 0, "the next batch is not begun"
    assert told["cancel_validate"]["words_after"] == 1, "the end of the epoch, whose only batch was done"
    assert told["cancel_train"]["checkpoint"] is True


def test_memory_returns_after_each_job(told: dict[str, Any]) -> None:
    levels = list(told["memory"].values())

    assert all(after - before < MEMORY_MIB for before, after in pairwise(levels)), told["memory"]
    assert levels[-1] - levels[0] < MEMORY_MIB, told["memory"]


def test_a_broken_off_training_goes_on_at_its_epoch_and_ends_with_the_right_number(told: dict[str, Any]) -> None:
    resumed = told["resumed"]

    assert [metrics["epoch"] for metrics in resumed["before"]["metrics"]] == [1]
    assert resumed["result"]["resumed_from_epoch"] == 1
    assert [metrics["epoch"] for metrics in resumed["metrics"]] == [2, 3, 4]
    assert resumed["result"]["epochs"] == 4
    assert resumed["rows"] == [1, 2, 3, 4]
    assert resumed["done"][-1] == resumed["total"]


def test_a_training_that_lacked_only_its_result_is_measured_and_not_trained_again(told: dict[str, Any]) -> None:
    measured = told["measured_only"]

    assert measured["metrics"] == []
    assert "train" not in measured["phases"]
    assert measured["result"]["epochs"] == 4
    assert measured["result"]["resumed_from_epoch"] == 4
    assert measured["result"]["metrics"] == pytest.approx(told["resumed"]["result"]["metrics"], abs=1e-3)


def test_a_checkpoint_that_cannot_be_resumed_starts_the_same_training_afresh(told: dict[str, Any], root: Path) -> None:
    result = told["stripped"]["result"]

    assert (result["epochs"], result["images"], result["resumed_from_epoch"]) == (2, 12, None)
    assert "cannot be resumed" in (root / "log").read_text(errors="replace")


def test_a_training_goes_on_from_trained_weights(told: dict[str, Any]) -> None:
    finetuned = told["finetuned"]["result"]

    assert (finetuned["epochs"], finetuned["trained"], finetuned["note"]) == (1, True, "")


def test_a_training_on_masks_makes_its_data_set_first(told: dict[str, Any], root: Path) -> None:
    whole = told["masks"]["whole"]

    assert whole["result"]["classes"] == ["person"]
    assert (whole["result"]["images"], whole["result"]["val_images"]) == (12, 3)
    assert whole["result"]["data"] == str(root / "masked/dataset/data.yaml")
    assert told["masks"]["making"]["phases"] == ["make data set"]
    assert told["masks"]["first_epoch"]["phases"] == ["check data set", "make data set", "train", "validate"]
    assert whole["done"] == sorted(whole["done"])
    assert whole["done"][-1] == whole["total"]


def test_a_pause_before_the_first_epoch_comes_at_once_and_one_in_it_at_its_end(told: dict[str, Any]) -> None:
    making, first = told["masks"]["making"], told["masks"]["first_epoch"]

    assert making["result"] == {"paused": "paused; what was not in a checkpoint is done again"}
    assert "checkpoint" not in making["left"]
    assert first["result"] == {"paused": "paused at its checkpoint"}
    assert "checkpoint" in first["left"]
    assert [metrics["epoch"] for metrics in first["metrics"]] == [1]


def test_a_resumed_training_goes_on_at_its_epoch_with_the_set_that_was_made(told: dict[str, Any]) -> None:
    whole = told["masks"]["whole"]

    assert whole["result"]["resumed_from_epoch"] == 1
    assert [metrics["epoch"] for metrics in whole["metrics"]] == [2, 3]
    assert whole["rows"] == [1, 2, 3]
    assert "make data set" not in whole["phases"]
    assert told["masks"]["abandoned"] == ["checkpoint", "data", "run"]


def test_a_prediction_gives_boxes_in_pixels_with_names_and_scores(told: dict[str, Any]) -> None:
    first, second = told["predicted"]["images"]

    assert (first["width"], first["height"]) == (160, 160)
    assert len(first["boxes"]) == len(first["classes"]) == len(first["scores"]) > 0
    assert all(0 <= value <= 160 for box in first["boxes"] for value in box)
    assert set(first["classes"]) <= {"person", "bus"}
    assert second["image"].endswith("bus-001.jpg")
    assert told["predicted"]["trained"] is True


def test_bad_input_is_refused_in_one_sentence_each(told: dict[str, Any]) -> None:
    words = ["there is no such file", "is no picture", "cannot be read safely", "there is no file", "image_size = 100", "does not exist"]

    assert [word in answer["refused"] for word, answer in zip(words, told["bad"], strict=True)] == [True] * 6, told["bad"]


def test_nothing_is_written_outside_the_worker_s_folders(told: dict[str, Any], root: Path) -> None:
    written = {path.name for path in root.iterdir()}

    assert written == {
        "bad", "broken", "cancel_train", "cancel_validate", "data", "film.mp4", "finetuned", "log", "masked", "masks", "note.pt", "predict", "stripped",
        "told.json", "var", "whole",
    }  # fmt: skip
