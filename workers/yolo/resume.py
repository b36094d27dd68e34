"""Puts the files of a training back to the last epoch that was saved, so that a new attempt goes on from there."""

import shutil
from pathlib import Path
from typing import Any

from msgspec import Struct

from workers.weights import WeightsError
from workers.yolo.network import open_checkpoint


class Resume(Struct, frozen=True):
    """Where a new attempt begins. last: the checkpoint to go on from.  epochs_done: at least 1.

    finished: no epoch is left; only the last validation is.
    """

    last: Path
    epochs_done: int
    finished: bool


def prepare(checkpoint: Path | None, run: Path, *, epochs: int) -> Resume | None:
    """Return where to go on, with `run` made fit for it; or None, with `run` emptied, when the training must start afresh.

    run: the folder that ultralytics writes to. epochs: what the job asks for.
    A checkpoint is only taken when it can be resumed: ultralytics itself starts a NEW training on a data set from the
    network when it is given one that was stripped of its optimizer.
    """
    found = None
    if checkpoint is not None and checkpoint.is_file():
        last = run / "weights" / "last.pt"  # the loader wants the suffix, and a NaN sends the trainer back to this file
        last.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, last)
        found = _resume(last, epochs=epochs)
    if found is None:
        shutil.rmtree(run, ignore_errors=True)
        return None
    _mend_best(run / "weights" / "best.pt", found.last)
    _cut_results(run / "results.csv", found.epochs_done)
    return found


def _resume(last: Path, *, epochs: int) -> Resume | None:
    try:
        content = open_checkpoint(last)
    except WeightsError as error:
        print(f"yolo: the saved checkpoint is of no use, the training starts afresh: {error}", flush=True)
        return None
    epoch, settings = content.get("epoch", -1), content.get("train_args") or {}
    if content.get("optimizer") is None or epoch < 0 or settings.get("epochs") != epochs:
        found = f"optimizer {'missing' if content.get('optimizer') is None else 'there'}, epoch {epoch}, of {settings.get('epochs')} epochs"
        print(f"yolo: the saved checkpoint cannot be resumed ({found}; expected one of {epochs} epochs), the training starts afresh", flush=True)
        return None
    return Resume(last=last, epochs_done=epoch + 1, finished=epoch + 1 >= epochs or _out_of_patience(content, settings))


def _out_of_patience(content: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether the training had already stopped early when it was saved: ultralytics would add one more epoch."""
    stopper = content.get("stopper") or {}
    return bool(content["epoch"] + 1 - stopper.get("best_epoch", 0) >= (settings.get("patience") or float("inf")))


def _mend_best(best: Path, last: Path) -> None:
    """Replace a best.pt that a kill left half written, or that is not there, by the last one: it is written in place, not renamed."""
    try:
        open_checkpoint(best)
    except WeightsError:
        shutil.copyfile(last, best)


def _cut_results(file: Path, epochs_done: int) -> None:
    """Take lines off results.csv that are half written, or of epochs that will come again."""
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8").splitlines()
    columns = lines[0].count(",") if lines else 0
    kept = [line for line in lines[1:] if line.count(",") == columns and _epoch(line) in range(1, epochs_done + 1)]
    file.write_text("\n".join([*lines[:1], *kept]) + "\n", encoding="utf-8")


def _epoch(line: str) -> int:
    """Return the number in the first column, 0 when it is none."""
    first = line.partition(",")[0]
    return int(first) if first.isdecimal() else 0
