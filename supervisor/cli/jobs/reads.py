"""What is known of jobs: lists of them, one with all its figures, and why one is where it is, in the supervisor's own sentences."""

import csv
import json
import sys
from typing import Final

import click
from msgspec import structs

from supervisor.cli.complete import job_ids, kinds
from supervisor.cli.complete import statuses as status_words
from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.cli.screen import ago, bar, clock, colour, size, table, tone_of, when
from supervisor.control import JSONValue
from supervisor.shapes import FlightView, JobsPage, JobView, WhyView
from supervisor.units import format_count, say_attempt

_PAGE: Final = 500
"""Jobs that are asked for at once: the most that the supervisor gives."""


@click.command("list")
@click.option("--status", "statuses", multiple=True, shell_complete=status_words, help="Only jobs in this status; may be given more than once.")
@click.option("--kind", default="", shell_complete=kinds, help="Only jobs of this kind.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many at the most, the newest first.")
@click.option("--cursor", default="", metavar="C", help="Go on where an earlier list ended.")
@click.option("--all", "everything", is_flag=True, help="All of them, however many.")
@JSON
@click.pass_obj
def list_jobs(context: Context, statuses: tuple[str, ...], kind: str, *, limit: int, cursor: str, everything: bool, as_json: bool) -> None:
    """List jobs, the newest first."""
    found, following = _pages(context, {"statuses": statuses, "kind": kind}, cursor, None if everything else limit)
    if as_json:
        print_json(found)
    else:
        rows = [(job.id, job.kind, job.status, f"{job.progress:.0f} %", clock(job.created_at), job.worker or "-", _gist(job)) for job in found]
        print("\n".join(table(("JOB", "KIND", "STATUS", "DONE", "CREATED", "WORKER", "NOTE"), rows, state_column=2)) if rows else "no jobs")
    if following:
        print(f"there are more: the same with --cursor {following}, or with --all", file=sys.stderr)


def _pages(context: Context, which: dict[str, JSONValue], cursor: str, limit: int | None) -> tuple[list[JobView], str]:
    """Return so many jobs, or all, and the cursor of what comes after them."""
    found: list[JobView] = []
    while True:
        wanted = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = context.ask("jobs.page", {**which, "limit": wanted, "cursor": cursor}, JobsPage)
        found += page.jobs
        cursor = page.next
        if not cursor or (limit is not None and len(found) >= limit):
            return found, cursor


def _gist(job: JobView) -> str:
    if job.status == "queued":
        place = "" if job.position is None else f"place {job.position}: "
        return place + (job.message or job.reason or "is about to be placed")
    words = [job.reason, job.message] if job.message or job.reason else [job.phase, " ".join(f"{name} {value:.3g}" for name, value in job.metrics.items())]
    return ": ".join(word for word in words if word)


@click.command()
@click.argument("job", shell_complete=job_ids())
@JSON
@click.pass_obj
def show(context: Context, job: str, *, as_json: bool) -> None:
    """Show one job; the beginning of its id is enough."""
    view = context.ask("jobs.show", {"job": job}, JobView)
    if as_json:
        print_json(view)
        return
    print("\n".join(_screen(view)))
    if view.status != "completed":
        print("\n".join(_story(context.ask("jobs.why", {"job": view.id}, WhyView))))


def _screen(job: JobView) -> list[str]:
    lines = [f"{job.id}  {job.kind}  {colour(job.status, tone_of(job.status))}" + (f"  {job.phase}" if job.phase else "")]
    if job.total:
        eta = f"  about {ago(job.eta_s)} left" if job.eta_s is not None else ""
        lines.append(f"progress  {bar(job.progress / 100)} {job.progress:.0f} %  {format_count(job.done)} of {format_count(job.total)}{eta}")
    if job.metrics:
        lines.append("metrics   " + "  ".join(f"{name} {value:.4g}" for name, value in job.metrics.items()))
    lines.append(f"times     created {clock(job.created_at)}  started {clock(job.started_at)}  ended {clock(job.completed_at)}")
    attempt = say_attempt(job.attempt, job.failures, job.max_attempts)
    lines.append(f"where     worker {job.worker or '-'}  device {job.device or '-'}  priority {job.priority}  {attempt}")
    if job.memory_bytes or job.memory_peak_bytes:
        seen = f"  at most {size(job.memory_peak_bytes)} so far" if job.memory_peak_bytes else ""
        lines.append(f"memory    {f'{size(job.memory_bytes)} needed ({job.memory_from})' if job.memory_bytes else 'nothing known of its need'}{seen}")
    lines += _sources(job)
    lines.append(f"params    {json.dumps(job.params)}")
    lines.append(f"files     {job.dir}")
    if job.cancel is not None:
        lines.append(f"cancel    {size(job.cancel.freed_bytes)} freed in {job.cancel.took_s:.1f} s")
    if job.result is not None:
        lines += ["result", *("  " + line for line in json.dumps(job.result, indent=2).splitlines())]
    return lines


def _sources(job: JobView) -> list[str]:
    """Return where the job comes from, where that is not a person's submit."""
    parts = [
        f"due {when(job.run_at)}" if job.run_at else "",
        f"by schedule {job.schedule}" if job.schedule else "",
        f"once more of {job.retry_of}" if job.retry_of else "",
    ]
    return [f"from      {'  '.join(part for part in parts if part)}"] if any(parts) else []


@click.command()
@click.argument("job", shell_complete=job_ids())
@JSON
@click.option("--csv", "as_csv", is_flag=True, help="The last minute of the worker that ended under it, second by second.")
@click.pass_obj
def why(context: Context, job: str, *, as_json: bool, as_csv: bool) -> None:
    """Say what a job waits for, where it is, or, where it has no result, why: its death certificate."""
    view = context.ask("jobs.why", {"job": job}, WhyView)
    if as_csv and not view.flight:
        print(f"there is no record for {view.job}: no worker has ended under it", file=sys.stderr)
        sys.exit(Exit.FAILED)
    if as_json:
        print_json(view)
    elif as_csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(FlightView.__struct_fields__)
        rows.writerows(structs.astuple(sample) for sample in view.flight)
    else:
        print("\n".join(_story(view)))


def _story(view: WhyView) -> list[str]:
    """Return the supervisor's sentences, and what can be done."""
    first, *rest = view.sentences
    can = [f"  you can: {' | '.join(view.you_can)}"] if view.you_can else []
    return [colour(first, "bad" if view.status == "failed" else ""), *(f"  {sentence}" for sentence in rest), *can]
