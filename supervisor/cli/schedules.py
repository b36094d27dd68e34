"""`warden schedules`: the jobs that are submitted by the clock, when each is due, and what became of the last."""

import click

from supervisor.cli.context import JSON, Context, print_json
from supervisor.cli.screen import table, when
from supervisor.shapes import ScheduleView


@click.command()
@JSON
@click.pass_obj
def schedules(context: Context, *, as_json: bool) -> None:
    """List the schedules of supervisor.toml."""
    found = context.ask("schedules", {}, list[ScheduleView])
    if as_json:
        print_json(found)
        return
    rows = [(one.name, one.cron, one.kind, when(one.next_at), when(one.last_at), one.last_job or "-") for one in found]
    print("\n".join(table(("SCHEDULE", "CRON", "KIND", "NEXT", "LAST", "LAST JOB"), rows)) if rows else "there is no [schedules.NAME] in supervisor.toml")


def next_runs(found: list[ScheduleView]) -> str:
    """Return when each schedule is due, the next first, in one line."""
    due = sorted((one.next_at, one.name) for one in found if one.next_at)
    return ", ".join(f"{name} {when(at)}" for at, name in due)
