"""Whether the programs and files that the configuration names are on this machine.

Apart from `load`, because a file may be checked on another machine than the one it is for, and because a program may be installed later.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Final

from supervisor.config.effective import Loaded
from supervisor.config.placeholders import fill
from supervisor.errors import Problem

_TOKENS_MAX_BYTES: Final = 2**20


def missing_programs(loaded: Loaded, environ: Mapping[str, str], python: str) -> tuple[Problem, ...]:
    """Return a problem for each worker whose program is missing or may not be run. python: what {python} stands for."""
    return tuple(_missing(loaded, environ, python))


def missing_files(loaded: Loaded) -> tuple[Problem, ...]:
    """Return a problem for the token file when no token can be read from it, while HTTP is on."""
    api = loaded.limits.api
    if not api.token_file or not api.on:
        return ()
    try:
        with open(api.token_file, "rb") as file:  # noqa: PTH123 - the path may be that of a pipe or a credential of systemd
            empty = not any(line.partition(b"#")[0].split() for line in file.read(_TOKENS_MAX_BYTES).splitlines())
    except OSError as error:
        sentence = f"cannot be read ({error.strerror}): write a token into it, correct the path, or check its permissions"
    else:
        if not empty:
            return ()
        sentence = "holds no token: write one into it, such as the output of: openssl rand -hex 32"
    return (_problem(loaded, "api.token_file", f'names the file "{api.token_file}", which {sentence}'),)


def _problem(loaded: Loaded, key: str, sentence: str) -> Problem:
    """Return the problem with whoever set the key."""
    origin = loaded.origins[key]
    line = int(origin.removeprefix("file:")) if origin.startswith("file:") else 0
    where = f"{loaded.path.name}:{line}" if line else "command line" if origin == "flag" else origin
    return Problem(where, f"{key} {sentence}", line)


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
        yield _problem(loaded, f"workers.{name}.command", f'names the program "{program}", which {sentence}')
