"""`warden gpu monitor`: the devices, again and again, until Ctrl-C. It outlives the supervisor, and says when that is away."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from supervisor.cli.context import Context
from supervisor.cli.device_screen import device_screen
from supervisor.cli.screen import ago, clock, colour
from supervisor.control import Unreachable
from supervisor.shapes import StatusView
from supervisor.units import parse_duration

_SHORTEST_S: Final = 0.1
_INTERVENTIONS: Final = 5
_OF_GPUS: Final = ("gpu_", "lease_", "device_", "load_")


def _interval(_context: click.Context, _parameter: click.Parameter, text: str) -> float:
    """Return the seconds: of a duration, or of a bare number, as other monitors take it."""
    try:
        seconds = float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    if seconds < _SHORTEST_S:
        raise click.BadParameter(f"{text} is below {_SHORTEST_S:g} s")
    return seconds


@click.command()
@click.option("--interval", metavar="T", default="2s", show_default=True, callback=_interval, help="How often to look.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one line for each look, {at, devices} or {at, away}.")
@click.pass_obj
def monitor(context: Context, *, interval: float, as_json: bool) -> None:
    """Watch the devices: who has them, who uses them without a lease, who waits. Ctrl-C ends it; exit 4 where no supervisor is there at first."""
    view = context.status()
    away_since_s: float | None = None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C does, and leaves the terminal as it was
    with suppress(KeyboardInterrupt), _screen(as_json=as_json) as show:
        while True:
            show(_json_line(view, away_since_s) if as_json else "\n".join(_lines(view, away_since_s)))
            time.sleep(interval)
            asked_s = time.monotonic()
            try:
                view, away_since_s = context.status(), None
            except Unreachable:
                away_since_s = away_since_s or asked_s


def _json_line(view: StatusView, away_since_s: float | None) -> str:
    at = datetime.now().astimezone().isoformat(timespec="milliseconds")
    seen = {"devices": view.devices} if away_since_s is None else {"away": "the supervisor does not answer", "away_s": time.monotonic() - away_since_s}
    return msgspec.json.encode({"at": at, **seen}).decode()


def _lines(view: StatusView, away_since_s: float | None) -> list[str]:
    """Return the screen; of a supervisor that is away when it was last heard of, and nothing old as if it were new."""
    now = time.strftime("%H:%M:%S")
    if away_since_s is not None:
        away = f"the supervisor has not answered for {ago(time.monotonic() - away_since_s)}; it is asked on (Ctrl-C ends this)"
        return [f"{now}  {colour(away, 'bad')}"]
    lines = [f"{now}  warden {view.supervisor.version}  up {ago(view.supervisor.uptime_s)}"]
    for device in view.devices:
        lines += ["", *device_screen(device)]
    if not view.devices:
        lines += ["", 'there is no device: gpu.backend is "none"']
    seen = [one for one in view.interventions if one.event.startswith(_OF_GPUS)][-_INTERVENTIONS:]
    if seen:
        lines += ["", "LAST INTERVENTIONS"]
        for one in seen:
            who = " ".join(word for word in (one.worker, one.job) if word)
            lines.append(f"  {clock(one.at)}  {one.event}  {who}  {one.reason or one.evidence}".replace("    ", "  "))
    return lines


@contextmanager
def _screen(*, as_json: bool) -> Iterator[Callable[[str], None]]:
    """Yield what shows one look: in place on a terminal, one after another elsewhere."""
    console = Console(highlight=False, soft_wrap=True)
    if as_json or not console.is_terminal:

        def print_it(text: str) -> None:
            sys.stdout.write(f"{text}\n" if as_json else f"{text}\n\n")
            sys.stdout.flush()

        yield print_it
        return
    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        yield lambda text: live.update(Text.from_ansi(text), refresh=True)
