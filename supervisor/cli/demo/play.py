"""The demo's six chapters, and what is observed in each."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.cli.demo.stage import Bars, DemoFailed, Stage
from supervisor.cli.demo.summary import Story
from supervisor.cli.device_screen import handover_line
from supervisor.cli.screen import size
from supervisor.control import JSONValue
from supervisor.shapes import JobView

TRAINING_COMES_AT: Final = 50.0
"""Percent of the propagation at which the training is submitted: in the middle of SAM's work."""


def play(stage: Stage) -> Story:
    """Play all of it and return what was observed. Raises DemoFailed when a step does not happen."""
    story = Story(home=stage.home, began_s=time.monotonic())
    stage.say(f"Warden's main job, on real input. Everything is written to {stage.home}")
    stage.chapter("1  Input: the photographs that ship with ultralytics, under a virtual camera")
    samples = stage.make_input()
    stage.say(f"video of {samples['video']['frames']} frames: {samples['video']['path']}")
    stage.say(f"labelled data set with a held-out part: {samples['data']}")
    stage.chapter("2  A supervisor, and SAM: a resident that holds 14 of 16 GiB")
    with stage.supervisor():
        _wait_for_sam(stage, story, "SAM loads")
        stage.chapter("3  SAM propagates masks through the video; in the middle of it, a training is submitted")
        training = _propagate(stage, story, samples)
        stage.chapter("4  SAM leaves, the memory is measured, YOLO trains")
        _train(stage, story, training)
        stage.chapter("5  SAM comes back by itself, and answers a click")
        _wait_for_sam(stage, story, "SAM returns")
        click = stage.submit("sam.segment", {"image": samples["image"], "points": [samples["prompt"]], "labels": [1]})
        story.click = stage.follow(click, lambda _job, _bars: None)
        stage.chapter("6  The end: everyone leaves in order")
    story.supervisor_exit = stage.exit_code
    story.peaks = stage.peaks
    story.log = stage.events()
    story.took_s = time.monotonic() - story.began_s
    return story


def _wait_for_sam(stage: Stage, story: Story, what: str) -> None:
    """Wait until SAM is ready in another process than the ones seen before."""

    def look(bars: Bars) -> bool:
        sam = next(worker for worker in stage.status().workers if worker.name == "sam-0")
        if sam.state in ("backoff", "quarantined"):
            raise DemoFailed(f"sam-0 does not start: {sam.last_reason}; {sam.note}")
        if sam.state == "ready" and sam.pid is not None and sam.pid not in story.sam_pids:
            story.sam_pids.append(sam.pid)
            return True
        bars.show(what, None, f"{sam.state}; {sam.next_action}")
        return False

    stage.until(what, look)


def _propagate(stage: Stage, story: Story, samples: Mapping[str, JSONValue]) -> JobView:
    """Propagate, and return the training that was submitted in the middle of it."""
    prompt = {"frame": 0, "object": 1, "points": [samples["prompt"]], "labels": [1]}
    propagation = stage.submit("sam.propagate", {"video": samples["video"]["path"], "prompts": [prompt]})
    training: JobView | None = None

    def look(job: JobView, bars: Bars) -> None:
        nonlocal training
        if training is None and job.status == "running" and job.progress >= TRAINING_COMES_AT:
            story.submitted_at_percent = job.progress
            training = stage.submit("yolo.train", samples["train_params"])
        if training is not None:
            waiting = stage.job(training.id)
            bars.show(training.kind, waiting.progress, f"waits: {waiting.message or waiting.reason or waiting.phase}")

    story.propagation = stage.follow(propagation, look)
    if training is None:
        raise DemoFailed(f"the propagation was over before {TRAINING_COMES_AT:g} % of it was seen: no training could be submitted meanwhile")
    return training


def _train(stage: Stage, story: Story, training: JobView) -> None:
    """Watch the hand-over and the epochs."""
    told_epoch = 0

    def look(job: JobView, bars: Bars) -> None:
        nonlocal told_epoch
        last = next(iter(stage.status().devices)).last_handover
        if story.handover is None and last is not None and last.job == job.id and last.spawned_s is not None:
            story.handover = last
            bars.say(f"hand-over: {handover_line(last)}; {size(last.need_bytes)} + margin needed, measured {last.polls} times")
        if job.status == "running" and story.sam_was_gone is None:
            story.sam_was_gone = not Path(f"/proc/{story.sam_pids[-1]}").exists()
        epoch = int(job.metrics.get("epoch", 0))
        if epoch > told_epoch:
            told_epoch = epoch
            bars.say(f"epoch {epoch:>3}, validated at its end:  " + "  ".join(f"{name} {value:.3f}" for name, value in job.metrics.items() if name != "epoch"))

    story.training = stage.follow(training, look)
