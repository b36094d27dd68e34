"""What a job, or the whole queue, can be told to do: cancel, pause, resume, start, retry; hold and release."""

import sys

import click

from supervisor.cli.complete import ENDED, LIVE, job_ids
from supervisor.cli.context import JSON, Context, print_json
from supervisor.cli.jobs.watched import watched
from supervisor.cli.screen import size
from supervisor.shapes import HoldView, JobView


@click.command()
@click.argument("job", shell_complete=job_ids(*LIVE))
@click.option("--no-wait", is_flag=True, help="Do not wait until its memory is proved back.")
@JSON
@click.pass_obj
def cancel(context: Context, job: str, *, no_wait: bool, as_json: bool) -> None:
    """Cancel a job, and say what that gave back."""
    view = context.ask("jobs.cancel", {"job": job}, JobView)
    if not no_wait and view.status == "cancelling":
        view = watched(context, view.id, quiet=True)
    if as_json:
        print_json(view)
    elif view.cancel is not None:
        print(f"{view.id} {view.status}: {size(view.cancel.freed_bytes)} freed in {view.cancel.took_s:.1f} s{f' ({view.message})' if view.message else ''}")
    else:
        print(f"{view.id} is {view.status}")


@click.command()
@click.argument("job", shell_complete=job_ids("queued", "preparing", "running"))
@JSON
@click.pass_obj
def pause(context: Context, job: str, *, as_json: bool) -> None:
    """Let a job leave its worker and the device at its next checkpoint; it is kept until it is resumed."""
    _tell(context, "jobs.pause", job, as_json=as_json)


@click.command()
@click.argument("job", shell_complete=job_ids("pausing", "paused"))
@JSON
@click.pass_obj
def resume(context: Context, job: str, *, as_json: bool) -> None:
    """Let a paused job go on from its last checkpoint."""
    _tell(context, "jobs.resume", job, as_json=as_json)


@click.command()
@click.argument("job", shell_complete=job_ids("queued"))
@JSON
@click.pass_obj
def start(context: Context, job: str, *, as_json: bool) -> None:
    """Let a job begin that was submitted with --hold."""
    _tell(context, "jobs.start", job, as_json=as_json)


@click.command()
@click.argument("job", shell_complete=job_ids(*ENDED))
@JSON
@click.pass_obj
def retry(context: Context, job: str, *, as_json: bool) -> None:
    """Submit an ended job again as a new one, and print the new id."""
    view = context.ask("jobs.retry", {"job": job}, JobView)
    if as_json:
        print_json(view)
        return
    print(view.id)
    print(f"{view.kind} of {view.retry_of} once more; watch it with: warden jobs watch {view.id}", file=sys.stderr)


@click.command()
@JSON
@click.pass_obj
def hold(context: Context, *, as_json: bool) -> None:
    """Hold the queue: no job is started, also after a restart; what is at work goes on, and programs outside Warden take the device in their turns."""
    _held(context.ask("jobs.hold", {}, HoldView), as_json=as_json)


@click.command()
@JSON
@click.pass_obj
def release(context: Context, *, as_json: bool) -> None:
    """Release a held queue."""
    _held(context.ask("jobs.release", {}, HoldView), as_json=as_json)


def _tell(context: Context, op: str, job: str, *, as_json: bool) -> None:
    view = context.ask(op, {"job": job}, JobView)
    if as_json:
        print_json(view)
    else:
        print(f"{view.id} is {view.status}{f': {view.message}' if view.message else ''}")


def _held(view: HoldView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        print("the queue is held: nothing new is started until: warden jobs release" if view.held else "the queue is released")
        if view.held:
            print("programs outside Warden (warden gpu run, lock) still take the device in their turns", file=sys.stderr)
