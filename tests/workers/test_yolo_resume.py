"""What a new attempt finds on disk is put back to the last saved epoch."""

from pathlib import Path
from typing import Any

import pytest

from workers.yolo import resume


@pytest.mark.parametrize(
    ("epoch", "best_epoch", "patience", "stopped"),
    [
        (9, 5, 5, True),  # ten epochs are done, the fifth was the best, five without a better one
        (9, 6, 5, False),
        (9, 10, 5, False),
        (9, 1, 0, False),  # ultralytics takes 0 as never
    ],
)
def test_a_training_that_had_stopped_early_is_not_given_one_more_epoch(epoch: int, best_epoch: int, patience: int, *, stopped: bool) -> None:
    content: dict[str, Any] = {"epoch": epoch, "stopper": {"best_epoch": best_epoch}}

    assert resume._out_of_patience(content, {"patience": patience}) is stopped


def test_results_lose_half_lines_and_the_epochs_that_come_again(tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    results.write_text("epoch,time,loss\n1,0.5,3\n2,0.9,2\n3,1.2,1\n4,1.")

    resume._cut_results(results, 2)

    assert results.read_text() == "epoch,time,loss\n1,0.5,3\n2,0.9,2\n"


def test_results_cut_in_the_middle_of_a_number_are_taken_off_too(tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    results.write_text("epoch,time,loss\n1,0.5,3\n,,\n2x,0.9,2\n")

    resume._cut_results(results, 2)

    assert results.read_text() == "epoch,time,loss\n1,0.5,3\n"


def test_without_a_checkpoint_what_an_earlier_attempt_left_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "results.csv").write_text("epoch\n1\n")

    assert resume.prepare(None, run, epochs=3) is None
    assert not run.exists()
