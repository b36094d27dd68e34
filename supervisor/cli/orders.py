"""`warden gpu reset|force-release|vacate`: what an operator takes back, or wants empty. Who did it, when and why is kept in the log."""

import getpass
import os
import secrets
import sys
from typing import Final

import click

from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.cli.locks import duration, not_empty, size_text
from supervisor.cli.screen import ago, size
from supervisor.errors import ConfigError
from supervisor.shapes import HolderView, ReleaseView, StatusView, VacateView

REASON = click.option("--reason", default="", metavar="TEXT", help="Why, for the record.")

_ANSWER_S: Final = 10.0
_VACATE_S: Final = 120.0
"""gpu.vacate_timeout of a supervisor.toml that cannot be read just now."""


@click.command()
@REASON
@JSON
@click.pass_obj
def reset(context: Context, *, reason: str, as_json: bool) -> None:
    """Take back what is stale: leases of programs that live and do not renew. Nobody is ended; the memory is measured before the next grant."""
    _say(context.ask("gpu.reset", {"by": _me(), "reason": reason}, ReleaseView), as_json=as_json)


@click.command("force-release")
@REASON
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON
@click.pass_obj
def force_release(context: Context, *, reason: str, yes: bool, as_json: bool) -> None:
    """Take back every lease. Workers are ended and come back with their jobs; programs are left alone. Asks first, and exits 2 where nobody can answer."""
    if not yes:
        _ask(context.status())
    _say(context.ask("gpu.force_release", {"by": _me(), "reason": reason}, ReleaseView), as_json=as_json)


@click.command()
@click.option("--need", metavar="SIZE", default="0", callback=size_text, help="What must be free, such as 8GiB; default: whatever is left when all have gone.")
@click.option("--device", default="", metavar="ID", callback=not_empty, help="This device; default: the smallest that can hold the need.")
@click.option("--timeout", metavar="T", callback=duration, help="How long to wait, then exit 75; default: gpu.vacate_timeout.")
@click.option(
    "--keep-free", metavar="T", default="5m", show_default=True, callback=duration, help="So long residents stay away, unless somebody waits for them."
)
@JSON
@click.pass_obj
def vacate(context: Context, *, need: str, device: str, timeout: float | None, keep_free: float, as_json: bool) -> None:
    """Have a device empty: idle residents leave, and the memory is measured. Exit 75 where somebody is at work on it, or it was not proved free in time."""
    timeout_s = _vacate_timeout_s(context) if timeout is None else timeout
    asked = {"by": _me(), "need": need, "device": device, "timeout_s": timeout_s, "keep_free_s": keep_free, "caller": os.getpid()}
    view = context.ask("gpu.vacate", {**asked, "ticket": f"t-{secrets.token_hex(8)}"}, VacateView, timeout_s=timeout_s + _ANSWER_S)
    if as_json:
        print_json(view)
    elif view.success:
        print(f"{view.message}\nfreed {size(view.freed_bytes)}")
    if not view.success:
        print(view.message, file=sys.stderr)
        sys.exit(Exit.BUSY)


def _vacate_timeout_s(context: Context) -> float:
    try:
        return context.loaded.limits.gpu.vacate_timeout_s
    except ConfigError:
        return _VACATE_S


def _ask(view: StatusView) -> None:
    """Say who would lose what, and return if that is wanted. Exits 1 if not, 2 where nobody can be asked."""
    losers = [f"{_called(holder)}, on {device.id} for {ago(holder.since_s)}: {_fate(holder)}" for device in view.devices for holder in device.holders]
    losers += [f"{device.loading.owner}, loads on {device.id}: {_ALONE}" for device in view.devices if device.loading and device.loading.lease]
    if not sys.stdin.isatty():
        held = f" ({'; '.join(losers)})" if losers else ""
        raise click.UsageError(f"it takes the device from everybody{held} and there is no terminal to ask on: say --yes")
    print("\n".join(losers) or "nobody has a device just now", file=sys.stderr)
    if not click.confirm("take back every lease?", err=True):
        print("nothing was taken back", file=sys.stderr)
        sys.exit(Exit.FAILED)


_ALONE: Final = "is left alone, and has no right to it any more"


def _called(holder: HolderView) -> str:
    return f"{holder.owner} (pid {holder.pid})" if holder.pid else holder.owner


def _fate(holder: HolderView) -> str:
    return "is ended, and comes back" if holder.kind == "worker" else _ALONE


def _me() -> str:
    """Return who asks, for the record."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        name = "somebody"
    return f"{name} (uid {os.getuid()}), pid {os.getpid()}, on the command line"


def _say(view: ReleaseView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        print(view.message)
