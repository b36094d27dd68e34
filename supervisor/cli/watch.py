"""Watching one job to its end: asked five times a second, and no loss of heart while the supervisor is away."""

import time
from functools import partial
from typing import Final

import msgspec

from supervisor.cli.context import Context
from supervisor.cli.screen import ago
from supervisor.cli.watch_screen import ENDED, Show
from supervisor.control import Client, Unreachable
from supervisor.shapes import HandoverView, JobView, StatusView

LOOK_S: Final = 0.2
_ASK_S: Final = 2.0


def watch_job(context: Context, job: str, *, quiet: bool = False) -> JobView:
    """Return the job once it ended. Shows it meanwhile, unless quiet. Outlives the supervisor: a later one is found again."""
    with Client(context.endpoint) as client, Show(quiet=quiet) as show:
        away_since_s: float | None = None
        while True:
            try:
                view = msgspec.convert(client.ask("jobs.show", {"job": job}, timeout_s=_ASK_S), JobView)
            except Unreachable:
                if away_since_s is None:
                    away_since_s = time.monotonic()
                    show.say("the supervisor does not answer; the job is kept, trying again (Ctrl-C leaves it as it is)")
                time.sleep(LOOK_S)
                continue
            if away_since_s is not None:
                show.say(f"back after {ago(time.monotonic() - away_since_s + _ASK_S)}")
                away_since_s = None
            job = view.id
            show.reading(view, partial(_last_handover, client, view.id))
            if view.status in ENDED:
                return view
            time.sleep(LOOK_S)


def _last_handover(client: Client, job: str) -> HandoverView | None:
    """Return the hand-over that was made for this job, if one was."""
    try:
        status = msgspec.convert(client.ask("status", timeout_s=_ASK_S), StatusView)
    except Unreachable:  # it went away this moment: the phase is told without the hand-over
        return None
    for device in status.devices:
        if device.last_handover is not None and device.last_handover.job == job:
            return device.last_handover
    return None
