"""Runs a loaded YOLO worker through a day of jobs in one process, and writes what it saw as JSON. A program, run by test_yolo_jobs.py.

It has a process of its own because ultralytics reads its environment once, and because memory is measured.
"""

import csv
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workers import masks, samples
from workers.base import BadInput, Job, JobCancelled, Report
from workers.idle import release
from workers.report import WorkPauses
from workers.yolo.params import Masks, Options, PredictParams, TrainParams
from workers.yolo.worker import Yolo

SMALL: dict[str, Any] = {"batch": 4, "image_size": 64, "optimizer": "AdamW", "lr0": 0.001, "mosaic": 0.0}


class Recorder(Report):
    """Keeps what it was told, and orders the work to stop at the nth word of a phase."""

    def __init__(self, job: Job, *, stop_phase: str = "", stop_at: int = 0, pauses: bool = False) -> None:
        super().__init__(job)
        self.pauses = pauses
        self.seen: list[tuple[float, float, str, Mapping[str, float] | None]] = []
        self.stop_phase, self.stop_left = stop_phase, stop_at
        self.ordered_at = 0

    def progress(self, done: float, total: float, *, phase: str = "", metrics: Mapping[str, float] | None = None) -> None:
        self.seen.append((done, total, phase, metrics))
        if phase == self.stop_phase and metrics is None:
            self.stop_left -= 1
            if self.stop_left == 0:
                self.ordered_at = len(self.seen)
                # As the supervisor's order comes: the flag is up, and the next look of the work finds it.
                if self.pauses:
                    self.pause()
                else:
                    self.interrupt(JobCancelled("cancelled"))
                return
        super().progress(done, total, phase=phase, metrics=metrics)

    def told(self) -> dict[str, Any]:
        return {
            "done": [done for done, _, _, _ in self.seen],
            "total": self.seen[-1][1],
            "phases": sorted({phase for _, _, phase, _ in self.seen}),
            "metrics": [metrics for _, _, _, metrics in self.seen if metrics is not None],
        }


class Story:
    """One worker, its folder, and the jobs it does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.worker = Yolo()
        self.worker.name, self.worker.state_dir, self.worker.config_dir = "yolo-0", root / "var", root
        self.worker.options = Options(allow_untrained=True, image_size=64, device="cpu")
        self.worker.load()
        self.data = samples.dataset(root / "data", train=12, val=6)

    def run(self, name: str, kind: str, params: Any, *, attempt: int = 1, **stop: Any) -> tuple[dict[str, Any], Recorder]:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        saved = folder / "checkpoint"
        job = Job(id=name, attempt=attempt, kind=kind, params=params, dir=folder, resume_from=saved if saved.is_file() else None)
        report = Recorder(job, **stop)
        try:
            return self.worker.run(job, report), report
        except WorkPauses as paused:
            return {"paused": str(paused)}, report
        except JobCancelled:
            return {"words_after": len(report.seen) - report.ordered_at}, report
        except BadInput as refused:
            return {"refused": str(refused)}, report
        finally:
            release()

    def train(self, name: str, *, epochs: int, attempt: int = 1, masks: Masks | None = None, **stop: Any) -> tuple[dict[str, Any], Recorder]:
        params = TrainParams(**({"data": str(self.data)} if masks is None else {"masks": masks}), epochs=epochs, **SMALL)
        return self.run(name, "yolo.train", params, attempt=attempt, **stop)


def memory_mib() -> float:
    """Return what this process itself made, in MiB: its share of a library's pages changes with the other processes that have it."""
    found = re.search(r"^Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def tell(root: Path) -> dict[str, Any]:
    story = Story(root)
    release()
    told: dict[str, Any] = {"note": story.worker.note, "memory": {"loaded": memory_mib()}}

    result, report = story.train("whole", epochs=3)
    told["whole"] = {"result": result, **report.told()}
    told["memory"]["trained"] = memory_mib()

    for name, stop_at in {"train": 5, "validate": 1}.items():
        result, _ = story.train(f"cancel_{name}", epochs=3, stop_phase=name, stop_at=stop_at)
        told[f"cancel_{name}"] = {**result, "checkpoint": (root / f"cancel_{name}/checkpoint").is_file()}
        told["memory"][f"cancelled_{name}"] = memory_mib()

    # The epoch at hand is the second of four; 3 batches an epoch, and a report before the first.
    broken, first = story.train("broken", epochs=4, stop_phase="train", stop_at=6)
    with (root / "broken/run/results.csv").open("a") as results:
        results.write("2,0.7,1.1")  # as a kill in the middle of a write leaves it
    (root / "broken/run/weights/best.pt").write_bytes(b"half")
    result, second = story.train("broken", epochs=4, attempt=2)
    with (root / "broken/run/results.csv").open() as results:
        rows = [int(row["epoch"]) for row in csv.DictReader(results)]
    told["resumed"] = {"before": {**broken, **first.told()}, "result": result, **second.told(), "rows": rows}
    # A kill between the last epoch and the result: nothing is left but to measure the best network.
    result, third = story.train("broken", epochs=4, attempt=3)
    told["measured_only"] = {"result": result, **third.told()}
    # A checkpoint that was stripped: a new training of the same data set, never another one.
    (root / "stripped").mkdir()
    (root / "stripped/checkpoint").write_bytes((root / "whole/run/weights/last.pt").read_bytes())
    result, _ = story.train("stripped", epochs=2)
    told["stripped"] = {"result": result}

    pictures = [str(root / f"data/images/val/bus-00{index}.jpg") for index in (0, 1)]
    told["predicted"], _ = story.run("predict", "yolo.predict", PredictParams(image=pictures, weights=told["whole"]["result"]["weights"], conf=0.0001))
    told["predicted_untrained"], _ = story.run("predict", "yolo.predict", PredictParams(image=pictures[0]))
    told["memory"]["end"] = memory_mib()
    told["masks"] = from_masks(story)
    (root / "note.pt").write_text("hello")
    told["bad"] = refused(story, pictures[0])
    story.worker.options = Options(weights=told["whole"]["result"]["weights"], image_size=64, device="cpu")
    story.worker.load()
    result, _ = story.train("finetuned", epochs=1)
    told["finetuned"] = {"result": result}
    return told


def from_masks(story: Story) -> dict[str, Any]:
    """Train on what SAM left of a video, paused while the set is made, then in the first epoch, then go on."""
    root = story.root
    film = samples.video(root / "film.mp4", frames=15, size=(160, 96))
    folder = root / "masks"
    folder.mkdir()
    for frame, (x, y) in enumerate(film.torso):
        mask = np.zeros((96, 160), dtype=bool)
        mask[max(int(y) - 20, 0) : int(y) + 20, max(int(x) - 10, 0) : int(x) + 10] = True
        masks.save_frame(folder, frame, size=(96, 160), objects={1: mask})
    wanted = Masks(video=str(film.path), masks_dir="masks", classes={"1": "person"})
    told: dict[str, Any] = {}
    for attempt, (name, stop) in enumerate(
        {"making": {"stop_phase": "make data set", "stop_at": 9, "pauses": True}, "first_epoch": {"stop_phase": "train", "stop_at": 1, "pauses": True}}.items(),
        1,
    ):
        result, report = story.train("masked", epochs=3, attempt=attempt, masks=wanted, **stop)
        told[name] = {"result": result, "left": sorted(path.name for path in (root / "masked").iterdir()), **report.told()}
    result, report = story.train("masked", epochs=3, attempt=3, masks=wanted)
    with (root / "masked/run/results.csv").open() as results:
        rows = [int(row["epoch"]) for row in csv.DictReader(results)]
    told["whole"] = {"result": result, "rows": rows, **report.told()}
    story.worker.abandon(root / "masked")
    told["abandoned"] = sorted(path.name for path in (root / "masked").iterdir())
    return told


def refused(story: Story, picture: str) -> list[dict[str, Any]]:
    """Return the answers to jobs that can never work."""
    root = story.root
    return [
        story.run("bad", "yolo.predict", params)[0]
        for params in (
            PredictParams(image=str(root / "none.jpg")),
            PredictParams(image=str(story.data)),
            PredictParams(image=picture, weights=str(root / "note.pt")),
            PredictParams(image=picture, weights="none.pt"),
            PredictParams(image=picture, image_size=100),
        )
    ] + [story.run("bad", "yolo.train", TrainParams(data="nowhere"))[0]]


if __name__ == "__main__":
    (Path(os.environ["ROOT"]) / "told.json").write_text(json.dumps(tell(Path(os.environ["ROOT"]))))
    sys.stdout.flush()
    os._exit(0)  # as a worker leaves
