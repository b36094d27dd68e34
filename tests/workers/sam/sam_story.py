"""Runs a loaded SAM worker through a day of jobs in one process, and writes what it saw as JSON. A program, run by test_sam_jobs.py.

It has a process of its own because ultralytics reads its environment once, and because memory and network use are watched.
"""

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from workers import masks
from workers.base import BadInput, Job, JobCancelled, Report
from workers.idle import release
from workers.report import WorkerLeaves, WorkPauses
from workers.sam.requests import PropagateParams, SamOptions, SegmentParams
from workers.sam.worker import Sam

SIDE = 128
WIDTH, HEIGHT, FRAMES = 160, 90, 12
FIRST, SECOND = [40.0, 45.0], [110.0, 30.0]
ONE = [{"points": [FIRST]}]
TWO = [*ONE, {"object": 2, "points": [SECOND]}]


class Recorder(Report):
    """Keeps the progress it was told, and orders the work to stop once it reaches a percentage."""

    def __init__(self, job: Job, *, stop_at: float | None = None, pause_at: float | None = None, leave_at: float | None = None) -> None:
        super().__init__(job)
        self.leave_at = leave_at
        self.pause_at = pause_at
        self.seen: list[tuple[float, str]] = []
        self.stop_at = stop_at

    def progress(self, done: float, total: float, *, phase: str = "", metrics: Mapping[str, float] | None = None) -> None:
        self.seen.append((round(100 * done / total, 3), phase))
        if self.stop_at is not None and done >= self.stop_at:
            self.interrupt(JobCancelled("cancelled"))  # as the supervisor's order comes: found at the next look
        if self.pause_at is not None and done >= self.pause_at:
            self.pause()
        super().progress(done, total, phase=phase, metrics=metrics)

    def check(self) -> None:
        super().check()
        if self.leave_at is not None and self.seen and self.seen[-1][0] >= self.leave_at:
            self.interrupt(WorkerLeaves("the worker was asked to stop"))  # right after a look: it comes while the frame is worked on


class Story:
    """One worker, its folder, and the jobs it does."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.video, self.image = root / "film.mp4", root / "picture.png"
        film(self.video)
        cv2.imwrite(str(self.image), picture(3))
        self.worker = self.loaded(allow_untrained=True)
        release()

    def loaded(self, **options: Any) -> Sam:
        worker = Sam()
        worker.name, worker.state_dir, worker.config_dir = "sam-0", self.root / "var", self.root
        worker.options = SamOptions(**{"image_size": SIDE, "device": "cpu", **options})
        worker.load()
        return worker

    def propagate(
        self, name: str, *, worker: Sam | None = None, resume: bool = False, stop: Mapping[str, float] | None = None, **params: Any
    ) -> dict[str, Any]:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        job = Job(
            id=name,
            attempt=2 if resume else 1,
            kind="sam.propagate",
            params=msgspec.convert({"video": str(self.video), "prompts": TWO, **params}, PropagateParams),
            dir=folder,
            resume_from=folder / "checkpoint" if resume else None,
        )
        return self.outcome(worker or self.worker, job, **(stop or {}))

    def segment(self, *, worker: Sam | None = None, **params: Any) -> dict[str, Any]:
        values = msgspec.convert({"image": str(self.image), **params}, SegmentParams)
        return self.outcome(worker or self.worker, Job(id="click", attempt=1, kind="sam.segment", params=values, dir=self.root))

    def outcome(self, worker: Sam, job: Job, **stop: float) -> dict[str, Any]:
        report = Recorder(job, **stop)
        before = memory_mib()
        began_s = time.perf_counter()
        told: dict[str, Any] = {}
        try:
            told["result"] = worker.run(job, report)
        except WorkPauses as paused:
            told["paused"] = str(paused)
        except WorkerLeaves as leaves:
            told["leaves"] = str(leaves)
        except JobCancelled:
            told["cancelled"] = True
        except BadInput as refused:
            told["refused"] = str(refused)
        took_s = time.perf_counter() - began_s
        release()
        files = sorted(path.name for path in job.dir.iterdir()) if job.kind == "sam.propagate" else []
        return {**told, "progress": report.seen, "took_s": took_s, "left_mib": memory_mib() - before, "files": files}

    def objects(self, name: str) -> list[dict[str, NDArray[np.bool_]]]:
        """Return the masks of each stored frame of a job."""
        stored = sorted((self.root / name / "masks").glob("*.json"))
        return [{key: masks.decode(rle) for key, rle in masks.load_frame(path.parent, int(path.stem))["objects"].items()} for path in stored]


def picture(seed: int) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 255, (9, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def film(path: Path, frames: int = FRAMES) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for number in range(frames):
        frame = picture(1)
        cv2.circle(frame, (40 + 2 * number, 45), 15, (30, 60, 220), -1)
        cv2.circle(frame, (110 - number, 30), 12, (30, 220, 40), -1)
        writer.write(frame)
    writer.release()


def memory_mib() -> float:
    """Return what this process itself made, in MiB: pages of a library are shared, or private once another process that has it ends."""
    found = re.search(r"^Anonymous: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def against_the_stream(story: Story, name: str, prompts: Mapping[str, Any]) -> float:
    """Return the lowest overlap of a job's masks with those of ultralytics' own video predictor."""
    from ultralytics.models.sam.predict import SAM2VideoPredictor

    settings = {"model": "sam2.1_t.pt", "imgsz": SIDE, "device": "cpu", "conf": 0.0, "verbose": False, "save": False, "mode": "predict", "task": "segment"}
    predictor = SAM2VideoPredictor(overrides=settings)
    predictor.setup_model(story.worker._network.image.model, verbose=False)
    lowest = 1.0
    mine = story.objects(name)
    for found, result in zip(mine, predictor(source=str(story.video), stream=True, **prompts), strict=True):
        ids = result.boxes.cls.int().tolist() if result.masks is not None else []
        for index, mask in enumerate(found.values()):
            theirs = result.masks.data[ids.index(index)].numpy().astype(bool) if index in ids else np.zeros_like(mask)
            lowest = min(lowest, overlap(mask, theirs))
    return lowest


def same(one: Sequence[Mapping[str, NDArray[np.bool_]]], other: Sequence[Mapping[str, NDArray[np.bool_]]]) -> bool:
    return len(one) == len(other) and all(a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a) for a, b in zip(one, other, strict=True))


def videos(story: Story) -> dict[str, Any]:
    told: dict[str, Any] = {"whole": story.propagate("whole"), "again": story.propagate("again")}
    told["again_same"] = same(story.objects("whole"), story.objects("again"))
    told["stored_objects"] = [sorted(found) for found in story.objects("whole")]
    told["disjoint"] = not any((found["1"] & found["2"]).any() for found in story.objects("whole"))
    told["not_empty"] = all(mask.any() for found in story.objects("whole") for mask in found.values())
    told["part"] = story.propagate(
        "part", first_frame=3, max_frames=5, prompts=[{"frame": 4, "box": [20, 20, 60, 70]}, {"frame": 6, "object": 9, "points": [SECOND]}]
    )
    told["part_objects"] = [sorted(found) for found in story.objects("part")]
    told["part_files"] = sorted(path.name for path in (story.root / "part" / "masks").iterdir())
    told["stream_two"] = against_the_stream(story, "whole", {"points": [FIRST, SECOND], "labels": [1, 1]})
    story.propagate("box", prompts=[{"box": [20, 20, 60, 70]}])
    told["stream_box"] = against_the_stream(story, "box", {"bboxes": [[20, 20, 60, 70]]})
    return told


def pauses(story: Story) -> dict[str, Any]:
    """Pause a job while it encodes, then while it propagates, then let it end."""
    told: dict[str, Any] = {"encode": story.propagate("paused", stop={"pause_at": 20.0})}
    told["propagate"] = story.propagate("paused", stop={"pause_at": 70.0})
    told["masks_after"] = len(story.objects("paused"))
    told["end"] = story.propagate("paused", resume=True)
    told["same"] = same(story.objects("paused"), story.objects("whole"))
    told["leaves"] = story.propagate("leaves", stop={"leave_at": 70.0})
    told["after_leaving"] = story.propagate("leaves", resume=True)
    told["same_after_leaving"] = same(story.objects("leaves"), story.objects("whole"))
    return told


def interruptions(story: Story) -> dict[str, Any]:
    """Cancel a job while it encodes, then while it propagates, then let it end; and one whose video changed in between."""
    story.worker._propagator._checkpoint_every_s = 0.0  # type: ignore[union-attr]  # a SAM2 network has one
    told: dict[str, Any] = {"encode": story.propagate("broken", stop={"stop_at": 20.0})}
    told["propagate"] = story.propagate("broken", stop={"stop_at": 70.0})
    told["masks_after"] = len(story.objects("broken"))
    told["end"] = story.propagate("broken", resume=True)
    told["same"] = same(story.objects("broken"), story.objects("whole"))

    story.propagate("lost", stop={"stop_at": 70.0})
    masks.frame_file(story.root / "lost" / "masks", 1).unlink()
    told["lost"] = story.propagate("lost", resume=True)
    story.propagate("torn", stop={"stop_at": 70.0})
    (story.root / "torn" / "checkpoint").write_bytes(b"torn")
    told["torn"] = story.propagate("torn", resume=True)
    told["torn_same"] = same(story.objects("torn"), story.objects("whole"))

    other = story.root / "changing.mp4"
    film(other)
    story.propagate("changed", video=str(other), stop={"stop_at": 70.0})
    film(other, frames=FRAMES - 2)
    told["changed"] = story.propagate("changed", video=str(other), resume=True)
    told["changed_masks"] = len(story.objects("changed"))
    return told


def clicks(story: Story) -> dict[str, Any]:
    told: dict[str, Any] = {"first": story.segment(points=[FIRST]), "second": story.segment(points=[FIRST, SECOND], labels=[1, 0])}
    told["box"] = story.segment(boxes=[[20, 20, 60, 70]], points=[FIRST])
    told["boxes"] = story.segment(boxes=[[20, 20, 60, 70], [90, 10, 130, 50]])
    told["multimask"] = story.segment(points=[FIRST], multimask=True)
    shape = masks.decode(told["first"]["result"]["masks"][0]).shape
    told["shape"] = list(shape)
    cv2.imwrite(str(story.image), picture(4))
    told["changed"] = story.segment(points=[FIRST])
    return told


def refusals(story: Story) -> dict[str, Any]:
    text, still, cut = story.root / "text.mp4", story.root / "text.png", story.root / "cut.mp4"
    for path in (text, still):
        path.write_text("this is neither a film nor a picture\n" * 20)
    cut.write_bytes(story.video.read_bytes()[:400])
    told = {
        "text": story.propagate("r1", video=str(text)),
        "cut": story.propagate("r2", video=str(cut)),
        "missing": story.propagate("r3", video=str(story.root / "none.mp4")),
        "outside": story.propagate("r4", prompts=[{"points": [[WIDTH, 5]]}]),
        "late": story.propagate("r5", prompts=[{"frame": FRAMES, "points": [FIRST]}]),
        "beyond": story.propagate("r6", first_frame=FRAMES + 5),
        "none": story.propagate("r7", prompts=[]),
        "picture": story.segment(image=str(still), points=[FIRST]),
        "point": story.segment(points=[[5, HEIGHT]]),
        "nothing": story.segment(),
    }
    return {name: {"refused": end.get("refused"), "files": end["files"]} for name, end in told.items()}


def networks(story: Story) -> dict[str, Any]:
    """Load other networks and options, from files with and without traps."""
    import torch

    from workers.sam import network

    told: dict[str, Any] = {}
    state = {name: value.clone() for name, value in story.worker._network.image.model.state_dict().items()}
    folder = story.root / "weights"
    (story.root / "sam2.1").mkdir()
    folder.mkdir()
    torch.save({"model": state}, folder / "sam2.1_t.pt")
    torch.save(state, folder / "sam2.1_hiera_tiny.pt")
    torch.save({"model": state}, folder / "sam2_t.pt")
    old = story.loaded(weights="mobile_sam.pt", allow_untrained=True)._network
    torch.save(old.image.model.state_dict(), folder / "mobile_sam.pt")
    two = network._built("sam2_t.pt")
    torch.save(two.state_dict(), story.root / "sam2.1" / "sam2_t.pt")

    trained = story.loaded()
    story.propagate("trained", worker=trained)
    told["trained_same"] = same(story.objects("trained"), story.objects("whole"))
    told["trained"] = story.segment(worker=trained, points=[FIRST])["result"]["trained"]
    told["meta"] = story.loaded(weights="weights/sam2.1_hiera_tiny.pt")._network.name
    told["folder_trap"] = story.loaded(weights="sam2.1/sam2_t.pt")._network.image.model.no_obj_embed_spatial is None
    mobile = story.loaded(weights="mobile_sam.pt")
    told["mobile"] = len(story.segment(worker=mobile, points=[FIRST], boxes=[[20, 20, 60, 70]])["result"]["masks"])
    told["mobile_video"] = story.propagate("mobile", worker=mobile)["refused"]
    bank = story.loaded(memory_bank_size=3)
    rows = bank._network.image.model.maskmem_tpos_enc
    told["bank_rows"] = bool(torch.equal(rows, state["maskmem_tpos_enc"][-3:]))
    story.propagate("bank", worker=bank)
    told["bank_differs"] = not same(story.objects("bank"), story.objects("whole"))
    story.propagate("raw", worker=story.loaded(disable_postproc=True))
    told["raw_overlaps"] = any((found["1"] & found["2"]).any() for found in story.objects("raw"))
    told["refused"] = {}
    wrong: dict[str, dict[str, Any]] = {
        "wrong file": {"weights": "sam2_t.pt"},
        "no name": {"weights": "film.mp4"},
        "quantize": {"quantize": True},
        "device": {"device": "tpu"},
        "size": {"model_size": "huge"},
        "size of a file": {"model_size": "l", "weights": "sam2.1/sam2_t.pt"},
        "not there": {"model_size": "b"},
    }
    for name, options in wrong.items():
        try:
            story.loaded(**options)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reads it
            told["refused"][name] = f"{type(error).__name__}: {error}"
    return told


def main() -> None:
    root = Path(os.environ["ROOT"])
    reached: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
            reached.append(f"{event} {arguments[1:]}")

    sys.addaudithook(watch)
    story = Story(root)
    told: dict[str, Any] = {"note": story.worker.note}
    for part in (videos, pauses, interruptions, clicks, refusals, networks):
        told[part.__name__] = part(story)
    told["reached"] = reached
    (root / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
