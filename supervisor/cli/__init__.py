"""`warden`: the command line. One small file for each group of commands; a mistake gets a sentence and an exit code, never a traceback."""

import os
import sys
from typing import NoReturn

import click

import supervisor
from supervisor.cli.check import check, config
from supervisor.cli.complete import completion
from supervisor.cli.context import Context, Exit
from supervisor.cli.gpu_run import run as gpu_run
from supervisor.cli.jobs import jobs
from supervisor.cli.locks import lock, renew, unlock
from supervisor.cli.logs import logs
from supervisor.cli.monitor import monitor
from supervisor.cli.orders import force_release, reset, vacate
from supervisor.cli.schedules import schedules
from supervisor.cli.status import gpu, health, status
from supervisor.cli.workers import reload, stop, workers
from supervisor.control import Refused, Unreachable
from supervisor.errors import ConfigError, SupervisorError

_EXIT_OF_REFUSAL = {"config": Exit.CONFIG, "usage": Exit.USAGE, "invalid": Exit.USAGE, "busy": Exit.BUSY, "stopping": Exit.BUSY}
"""Any other refusal is exit 1: what is unknown or gone, what the state of a job forbids, what failed."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(supervisor.__version__, prog_name="warden", message=f"%(prog)s %(version)s ({supervisor.DISTRIBUTION})")
@click.option("--config", "config_path", metavar="FILE", help="The configuration, instead of the supervisor.toml that is found.")
@click.pass_context
def cli(context: click.Context, config_path: str | None) -> None:
    """Keep GPU model workers alive, and let them share a card."""
    context.obj = Context(config_path=config_path, environ=dict(os.environ))


@cli.command()
@click.pass_obj
def run(context: Context) -> None:
    """Run the supervisor in the foreground; SIGTERM or Ctrl-C stops it in order."""
    from supervisor.cli.run import run_supervisor  # the other commands do not wait for what this one imports

    sys.exit(run_supervisor(context))


@cli.command()
@click.option("--dir", "folder", metavar="DIR", help="Where the demo's files go (a new folder; default: a fresh one in the temporary directory).")
@click.pass_obj
def demo(context: Context, folder: str | None) -> None:
    """Watch SAM and YOLO take turns on one device, on real input; ends with a summary."""
    from supervisor.cli.demo import tell

    sys.exit(tell(context.environ, folder))


for of_gpu in (lock, renew, unlock, gpu_run, reset, force_release, vacate, monitor):
    gpu.add_command(of_gpu)
for command in (check, config, status, health, gpu, jobs, schedules, workers, logs, reload, stop, completion):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _end(130, "")
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except ConfigError as error:
        _end(Exit.CONFIG, str(error))
    except Refused as error:
        _end(_EXIT_OF_REFUSAL.get(error.code, Exit.FAILED), str(error))
    except Unreachable as error:
        _end(Exit.UNREACHABLE, str(error))
    except SupervisorError as error:
        _end(Exit.FAILED, str(error))
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def _end(code: int, sentence: str) -> NoReturn:
    if sentence:
        print(sentence, file=sys.stderr)
    sys.exit(code)
