"""`warden jobs`: submit work, see what became of it, and tell it what to do."""

import click

from supervisor.cli.jobs.orders import cancel, hold, pause, release, resume, retry, start
from supervisor.cli.jobs.reads import list_jobs, show, why
from supervisor.cli.jobs.submit import submit
from supervisor.cli.jobs.watched import watch

__all__ = ["jobs"]


@click.group()
def jobs() -> None:
    """Submit work, and see what became of it."""


for command in (submit, list_jobs, show, watch, why, cancel, pause, resume, start, retry, hold, release):
    jobs.add_command(command)
