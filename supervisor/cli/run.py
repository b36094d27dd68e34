"""`warden run`: the supervisor in the foreground."""

import sys

from supervisor.app import serve
from supervisor.cli.context import Context, Exit
from supervisor.config import missing
from supervisor.errors import StateError, StoreError, Taken


def run_supervisor(context: Context) -> int:
    """Return the exit code: 0, 75 where another supervisor has the state folder, 78 where something must be mended first."""
    loaded = context.loaded
    for problem in missing(loaded, context.environ, sys.executable):
        print(f"warning: {problem}", file=sys.stderr)  # a missing command is tried again and again: it may be installed while we run
    try:
        return serve(loaded, context.environ)
    except Taken as taken:
        print(taken, file=sys.stderr)
        return Exit.BUSY
    except (StateError, StoreError) as error:
        print(error, file=sys.stderr)
        return Exit.CONFIG
