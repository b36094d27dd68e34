"""Whether the programs that the workers' commands name are on this machine.

Apart from `load`, because a file may be checked on another machine than the one it is for, and because a program may be installed later.
"""

import os
import shutil
from collections.abc import Iterator, Mapping

from supervisor.config.effective import Loaded
from supervisor.config.placeholders import fill
from supervisor.errors import Problem


def missing_programs(loaded: Loaded, environ: Mapping[str, str], python: str) -> tuple[Problem, ...]:
    """Return a problem for each worker whose program is missing or may not be run. python: what {python} stands for."""
    return tuple(_missing(loaded, environ, python))


def _missing(loaded: Loaded, environ: Mapping[str, str], python: str) -> Iterator[Problem]:
    for name, spec in loaded.limits.workers.items():
        places = {"python": python, "config_dir": str(loaded.path.parent), "state_dir": loaded.limits.supervisor.state_dir, "name": name}
        program = fill(spec.command[0], **places)
        search = fill(spec.env["PATH"], **places) if "PATH" in spec.env else environ.get("PATH", os.defpath)
        if shutil.which(program, path=search):
            continue
        if "/" not in program:
            sentence = "is on no folder of PATH: install it, or write its whole path"
        elif os.path.exists(program):  # noqa: PTH110 - Path.exists raises where a folder may not be entered
            sentence = "is no program that may be run: check what it is, and its permissions"
        else:
            sentence = "does not exist: install it, or correct the path"
        origin = loaded.origins[f"workers.{name}.command"]
        line = int(origin.removeprefix("file:")) if origin.startswith("file:") else 0
        where = f"{loaded.path.name}:{line}" if line else "command line" if origin == "flag" else origin
        yield Problem(where, f'workers.{name}.command names the program "{program}", which {sentence}', line)
