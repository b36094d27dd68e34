"""`warden jobs watch`, and what other commands need of it."""

import sys

import click

from supervisor.cli.complete import LIVE, job_ids
from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.shapes import JobView


def watched(context: Context, job: str, *, quiet: bool) -> JobView:
    """Return the job once it ended; show it meanwhile, unless quiet."""
    from supervisor.cli.watch import watch_job  # rich costs 4 MiB, and `warden run` comes through this module as well

    return watch_job(context, job, quiet=quiet)


@click.command()
@click.argument("job", shell_complete=job_ids(*LIVE))
@JSON
@click.pass_obj
def watch(context: Context, job: str, *, as_json: bool) -> None:
    """Watch a job to its end; exit 1 if it fails or is cancelled. Ctrl-C leaves the job running."""
    ended = watched(context, job, quiet=as_json)
    if as_json:
        print_json(ended)
    sys.exit(Exit.OK if ended.status == "completed" else Exit.FAILED)
