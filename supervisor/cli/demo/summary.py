"""The end of the demo: every step verified against what was observed, and a table of what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from supervisor.cli.device_screen import handover_line
from supervisor.cli.screen import size
from supervisor.control import JSONValue
from supervisor.shapes import HandoverView, JobView
from supervisor.units import say_duration

FRAMES_AT_LEAST: Final = 120


@dataclass
class Story:
    """What was observed while the demo ran."""

    home: Path
    began_s: float
    propagation: JobView | None = None
    training: JobView | None = None
    click: JobView | None = None
    handover: HandoverView | None = None
    submitted_at_percent: float = 0.0
    sam_pids: list[int] = field(default_factory=list)
    sam_was_gone: bool | None = None  # looked at once, while YOLO trained
    peaks: dict[str, int] = field(default_factory=dict)
    log: list[dict[str, JSONValue]] = field(default_factory=list)
    supervisor_exit: int | None = None
    took_s: float = 0.0


def steps(story: Story) -> Iterator[tuple[str, bool, str]]:
    """Yield each step of the story: what must have happened, whether it did, and what shows it."""
    propagation, training, click = story.propagation, story.training, story.click
    if propagation is None or training is None or click is None:
        yield "all three jobs were seen", False, "one of them is missing"
        return
    masks = list(Path(propagation.result["masks_dir"]).glob("*.json"))
    frames = propagation.result["frames"]
    yield "masks of every frame are on disk", len(masks) == frames >= FRAMES_AT_LEAST, f"{len(masks)} files for {frames} frames"
    yield "the training came while SAM was at work", 0 < story.submitted_at_percent < 100, f"at {story.submitted_at_percent:.0f} % of the propagation"  # noqa: PLR2004  # percent
    left, granted = _when(story, "worker_stopped", "sam-0"), _when(story, "lease_granted", "yolo-0")
    spawned, released = _when(story, "worker_spawned", "yolo-0"), _when(story, "lease_released", "sam-0")
    in_order = None not in (left, granted, spawned, released) and left <= released <= granted <= spawned  # type: ignore[operator]  # none of them is None
    yield "SAM left, its memory was seen to be back, then YOLO was granted the device, then started", in_order, "by the log's order"
    yield "SAM's process was gone while YOLO trained", story.sam_was_gone is True, f"pid {story.sam_pids[0]}"
    proof = next((event for event in story.log if event["event"] == "gpu_vacated" and event["worker"] == "yolo-0"), {})
    enough = proof.get("free_bytes", 0) >= 8 * 2**30
    yield "the free memory was measured", enough, f"{size(proof.get('free_bytes'))} free, {proof.get('polls', 0)} readings"
    metrics = training.result["metrics"]
    epochs = training.params["epochs"]
    yield "YOLO trained every epoch", training.result["epochs"] == epochs, f"{training.result['epochs']} of {epochs}"
    yield (
        "its metrics are numbers from the held-out part",
        0.0 < metrics["mAP50"] <= 1.0,
        f"mAP50 {metrics['mAP50']:.3f} on {training.result['val_images']} pictures",
    )
    yield "its weights are on disk", Path(training.result["weights"]).is_file(), str(training.result["weights"])
    yield "SAM came back in a new process", len(set(story.sam_pids)) > 1, f"pids {story.sam_pids}"
    yield "SAM answered the click", bool(click.result["masks"]), f"{len(click.result['masks'])} masks in {click.result['seconds']:.2f} s"
    errors = [event["event"] for event in story.log if event["level"] == "error"]
    yield "nothing needed a person", not errors, ", ".join(errors) or "no error in the log"
    yield "the supervisor ended in order", story.supervisor_exit == 0, f"exit code {story.supervisor_exit}"
    alive = [event["pid"] for event in story.log if event["event"] == "worker_spawned" and Path(f"/proc/{event['pid']}").exists()]
    yield "no process is left", not alive, f"pids {alive}" if alive else "all pids are gone"


def _when(story: Story, event: str, worker: str) -> int | None:
    """Return the place in the log of the first such event; None where there is none."""
    return next((place for place, seen in enumerate(story.log) if seen["event"] == event and seen.get("worker") == worker), None)


def summary(console: Console, story: Story) -> int:
    """Print what was verified and what came of it. Returns 0 only if every step is true."""
    console.print("\n[bold]Summary[/]")
    verdicts = list(steps(story))
    for what, true, shown_by in verdicts:
        console.print(f"   {'[green]yes[/]' if true else '[bold red]NO [/]'}  {what} ({shown_by})")
    if story.propagation and story.training and story.click:
        console.print()
        console.print(_table(story, story.propagation, story.training, story.click), soft_wrap=False)  # which would break words in cells
    failed = [what for what, true, _ in verdicts if not true]
    if failed:
        console.print(f"\n[bold red]The demo failed:[/] not true: {'; '.join(failed)}")
        return 1
    console.print("\nEvery step was verified.")
    return 0


def _table(story: Story, propagation: JobView, training: JobView, click: JobView) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    untrained = [f"{job.kind}: {job.result['note']}" for job in (propagation, training) if not job.result.get("trained", True)]
    metrics = training.result["metrics"]
    measured = f"mAP50 {metrics['mAP50']:.3f}, mAP50-95 {metrics['mAP50_95']:.3f}, precision {metrics['precision']:.3f}, recall {metrics['recall']:.3f}"
    rows = [
        ("jobs", f"{propagation.id} sam.propagate, {training.id} yolo.train, {click.id} sam.segment"),
        (
            "propagation",
            f"{propagation.result['frames']} frames in {propagation.result['seconds']:.1f} s, {propagation.result['fps']:.1f} frames/s over both of its phases",
        ),
        ("training", f"{training.result['epochs']} epochs in {training.result['seconds']:.1f} s on {training.result['images']} pictures"),
        ("metrics", f"{measured}: the best epoch's network, validated once more at the end"),
        ("click", f"answered in {click.result['seconds']:.2f} s"),
        ("hand-over", handover_line(story.handover) if story.handover else "?"),
        ("memory", ", ".join(f"{worker} at most {size(used)}" for worker, used in sorted(story.peaks.items()))),
        ("masks", str(propagation.result["masks_dir"])),
        ("weights", str(training.result["weights"])),
        ("logs", str(story.home / "logs")),
        ("took", say_duration(story.took_s)),
        *(("note", note) for note in untrained),
    ]
    for name, text in rows:
        table.add_row(name, text, style="bold" if name in ("metrics", "note") else "")
    return table
