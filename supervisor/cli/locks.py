"""`warden gpu lock|renew|unlock`: the device for a script or a program that Warden did not start."""

import os
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.cli.waiting import locked
from supervisor.errors import ConfigError
from supervisor.shapes import LockView
from supervisor.units import parse_duration, parse_size, short_duration

_PRIORITY_MAX = 1_000_000
_TIMEOUT_S = 120.0
"""Of a supervisor.toml that cannot be read just now."""


def duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return the seconds of an option."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def not_empty(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Return the text of an option. Empty (of a variable that is not set, perhaps) it must not mean any."""
    if text == "" and context.get_parameter_source(parameter.name or "") is not ParameterSource.DEFAULT:
        raise click.BadParameter("it is empty: name one, or leave the option out")
    return text


def size_text(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Return the size of an option as it was written, once it makes sense."""
    try:
        parse_size(text or "0")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return text


def asking(command: click.Command) -> click.Command:
    """Add the options of whoever asks for a device."""
    for option in (
        click.option("--ticket", default="", metavar="TICKET", help="Of an earlier try: it keeps its age."),
        click.option("--device", default="", metavar="ID", callback=not_empty, help="This device, and no other; default: the smallest that can hold the need."),
        click.option("--timeout", metavar="T", callback=duration, help="How long to wait, then exit 75; default: gpu.lock_timeout."),
        click.option("--priority", type=click.IntRange(min=0, max=_PRIORITY_MAX), default=15, show_default=True, help="0 is the most urgent; age counts."),
        click.option(
            "--need", metavar="SIZE", default="0", callback=size_text, help="What must be free, such as 8GiB; default: nothing is proved of the size."
        ),
    ):
        command = option(command)
    return command


def wait_s(context: Context, timeout: float | None) -> float:
    """Return how long to wait."""
    if timeout is not None:
        return timeout
    try:
        return context.loaded.limits.gpu.lock_timeout_s
    except ConfigError:
        return _TIMEOUT_S


@asking
@click.command()
@click.option("--ttl", metavar="T", callback=duration, help="It is renewed within this; default: gpu.lease_ttl. 0s: the process alone counts.")
@click.option(
    "--pid", type=click.IntRange(min=0), help="Whose lease it is: it ends with this process. Default: the caller of this command; 0: nobody's, by --ttl alone."
)
@click.option("--owner", metavar="NAME", callback=not_empty, help="What it is called; default: the name of that process.")
@click.option(
    "--purpose",
    type=click.Choice(("inference", "load")),
    default="inference",
    show_default=True,
    help="load: the lock for loading a model, one at a time on a device, after the device itself.",
)
@JSON
@click.pass_obj
def lock(
    context: Context,
    /,
    *,
    need: str,
    priority: int,
    timeout: float | None,
    device: str,
    ttl: float | None,
    pid: int | None,
    owner: str | None,
    ticket: str,
    purpose: str,
    as_json: bool,
) -> None:
    """Wait for a device and hold it: until `unlock`, until its process ends, or, without one, until it is not renewed in time."""
    pid = os.getppid() if pid is None else pid
    asked = {
        "owner": owner or _name_of(pid),
        "need": need,
        "priority": priority,
        "device": device,
        "pid": pid,
        "caller": os.getpid(),
        "purpose": purpose,
        **({"ttl_s": ttl} if ttl is not None else {}),
    }
    view = locked(context, asked, timeout_s=wait_s(context, timeout), ticket=ticket)
    if as_json:
        print_json(view)
    elif view.granted:
        print(f"{view.lease} {view.fence} {view.device}")
        until = f"; renew it within {short_duration(view.expires_in_s)}" if view.expires_in_s is not None else ""
        print(f"give it back: warden gpu unlock {view.lease} {view.fence}{until}", file=sys.stderr)
    if not view.granted:
        refuse(view)


def refuse(view: LockView) -> None:
    """Say who is in the way, and exit 75."""
    print(view.message, file=sys.stderr)
    print(f"its age is kept by: --ticket {view.ticket}", file=sys.stderr)
    sys.exit(Exit.BUSY)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() or "?"
    except OSError:
        return f"pid {pid}" if pid else "somebody"


@click.command()
@click.argument("lease")
@click.argument("fence", type=int)
@click.option("--ttl", metavar="T", callback=duration, help="For so long; default: as before.")
@JSON
@click.pass_obj
def renew(context: Context, lease: str, fence: int, *, ttl: float | None, as_json: bool) -> None:
    """Say that a lease is still used. Exit 1 for one that is over."""
    view = context.ask("gpu.renew", {"lease": lease, "fence": fence, "ttl_s": ttl}, LockView)
    if as_json:
        print_json(view)
    else:
        until = f"for {short_duration(view.expires_in_s)}" if view.expires_in_s is not None else "for as long as its process lives"
        print(f"{lease} is held {until}")
        if view.yield_wanted:
            print(f"{view.wanted_by} waits for it and should have it soon: warden gpu unlock {lease} {fence}", file=sys.stderr)


@click.command()
@click.argument("lease")
@click.argument("fence", type=int)
@click.pass_obj
def unlock(context: Context, lease: str, fence: int) -> None:
    """Give a lease back. The next holder gets the device when its memory was measured. Exit 1 for one that is over."""
    context.ask("gpu.unlock", {"lease": lease, "fence": fence}, dict[str, str])
    print(f"{lease} is given back")
