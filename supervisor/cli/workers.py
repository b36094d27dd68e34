"""`warden workers` and `warden stop`: where the operator wants workers, and the supervisor itself."""

import os
import select
import sys
import time
from collections.abc import Callable
from typing import Final

import click

from supervisor.cli.complete import workers as names
from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.control import Unreachable
from supervisor.errors import ConfigError
from supervisor.shapes import DumpView

_LOOK_S: Final = 0.5


@click.group()
def workers() -> None:
    """Start, stop, restart or recycle workers. A model's name means all of its workers."""


def _want(context: Context, op: str, name: str, done: str) -> None:
    for worker in context.ask(op, {"name": name}, list[str]):
        print(f"{worker}: {done}; watch it with: warden status")


@workers.command()
@click.argument("name", shell_complete=names)
@click.pass_obj
def start(context: Context, name: str) -> None:
    """Want a worker up."""
    _want(context, "workers.start", name, "wanted up")


@workers.command("stop")
@click.argument("name", shell_complete=names)
@click.pass_obj
def stop_worker(context: Context, name: str) -> None:
    """Want a worker down: it finishes its job first, and stays down until it is started."""
    _want(context, "workers.stop", name, "wanted down")


@workers.command()
@click.argument("name", shell_complete=names)
@click.pass_obj
def restart(context: Context, name: str) -> None:
    """Give a worker a fresh process: it finishes its job first."""
    _want(context, "workers.restart", name, "leaves, and starts afresh")


@workers.command()
@click.argument("name", shell_complete=names)
@click.pass_obj
def recycle(context: Context, name: str) -> None:
    """Give a worker a fresh process at the next boundary of its work (checkpoint, end of a job), one worker of a model at a time."""
    _want(context, "workers.recycle", name, "gets a fresh process at the next boundary of its work")


@workers.command()
@click.argument("name", shell_complete=names)
@JSON
@click.pass_obj
def dump(context: Context, name: str, *, as_json: bool) -> None:
    """Show what a live worker does just now: state, children, device, stacks (also written into its log), its last lines. It works on unharmed."""
    found = context.ask("workers.dump", {"name": name}, list[DumpView])
    if as_json:
        print_json(found)
        return
    for one in found:
        at_work = f", {', '.join(one.jobs)}" if one.jobs else ""
        print(f"{one.worker}: {one.state}{at_work}, pid {one.pid}, generation {one.generation}", *one.process.split("; "), sep="\n  ")
        print(f"stacks (also in {one.log}):" if one.stack else "stacks: none")
        print(*one.stack.splitlines(), f"the last lines of {one.log}:", *(f"  {line}" for line in one.log_tail), sep="\n")


@click.command()
@click.pass_obj
def reload(context: Context) -> None:
    """Take supervisor.toml as it is now; say what changed, and what each change takes. Exit 78, and nothing changes, if something is wrong with it."""
    changed = context.ask("reload", {}, list[str])
    print("\n".join(changed) if changed else "nothing changed")


@click.command()
@click.option("--now", is_flag=True, help="Without waiting for work to be saved.")
@click.option("--timeout", default=90.0, show_default=True, metavar="SECONDS", help="How long to wait for its end.")
@click.pass_obj
def stop(context: Context, *, now: bool, timeout: float) -> None:
    """Stop the supervisor and its workers in order; running jobs are saved and go on at the next run."""
    pid = context.ask("stop", {"now": now}, dict[str, int])["pid"]
    started_s = time.monotonic()
    said = False
    ended = _end_of(pid)
    while time.monotonic() - started_s < timeout:
        if ended(_LOOK_S):
            print(f"stopped (pid {pid}) in {time.monotonic() - started_s:.1f} s")
            return
        if not said and time.monotonic() - started_s > 2:  # noqa: PLR2004  # a wait longer than this says what it waits for
            said = True
            print(f"waiting for pid {pid}: {_who_is_left(context)}", file=sys.stderr)
    print(f"pid {pid} still runs after {timeout:g} s: {_who_is_left(context)}", file=sys.stderr)
    sys.exit(Exit.FAILED)


def _end_of(pid: int) -> Callable[[float], bool]:
    """Return what waits some seconds for the process to end. A zombie has ended: whoever started it may be slow to reap it."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # it is gone already
        return lambda _within_s: True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return lambda within_s: bool(poll.poll(1000 * within_s))


def _who_is_left(context: Context) -> str:
    try:
        view = context.status()
    except (Unreachable, ConfigError):
        return "it closes its files"
    left = [f"{worker.name} is {worker.state} for {worker.since_s:.0f} s" for worker in view.workers if worker.pid]
    return ", ".join(left) or "its last writes"
