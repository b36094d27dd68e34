"""Whether the programs, folders, users and files that the configuration names are on this machine.

Apart from `load`, because a file may be checked on another machine than the one it is for, and because a program may be installed later.
"""

import os
import pwd
import shutil
from collections.abc import Mapping
from typing import Final

from supervisor.config.effective import NO_COMMAND, Loaded
from supervisor.config.placeholders import fill
from supervisor.core.limits import WorkerSpec
from supervisor.errors import Problem

_TOKENS_MAX_BYTES: Final = 2**20


def missing(loaded: Loaded, environ: Mapping[str, str], python: str) -> tuple[Problem, ...]:
    """Return a problem for each thing that is named and is not there, or cannot be used. python: what {python} stands for."""
    found = []
    for name, spec in loaded.limits.workers.items():
        places = {"python": python, "config_dir": str(loaded.path.parent), "state_dir": loaded.limits.supervisor.state_dir, "name": name}
        looks = {"command": _no_program(spec, environ, places), "cwd": _no_folder(spec, places), "user": _no_user(spec)}
        found += [_problem(loaded, f"workers.{name}.{key}", sentence) for key, sentence in looks.items() if sentence]
    return (*found, *_missing_tokens(loaded))


def _missing_tokens(loaded: Loaded) -> tuple[Problem, ...]:
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


def _no_program(spec: WorkerSpec, environ: Mapping[str, str], places: Mapping[str, str]) -> str:
    """Return what is wrong with its program; empty where it may be run, and where none is named."""
    if not spec.command or spec.command == NO_COMMAND:
        return ""
    program = fill(spec.command[0], **places)
    search = fill(spec.env["PATH"], **places) if "PATH" in spec.env else environ.get("PATH", os.defpath)
    if shutil.which(program, path=search):
        return ""
    if "/" not in program:
        sentence = "is on no folder of PATH: install it, or write its whole path"
    elif os.path.exists(program):  # noqa: PTH110 - Path.exists raises where a folder may not be entered
        sentence = "is no program that may be run: check what it is, and its permissions"
    else:
        sentence = "does not exist: install it, or correct the path"
    return f'names the program "{program}", which {sentence}'


def _no_folder(spec: WorkerSpec, places: Mapping[str, str]) -> str:
    """Return what is wrong with the folder that it runs in; empty where it is there, and for the state folder, which `run` makes."""
    folder = fill(spec.cwd, **places)
    if os.path.normpath(folder) == os.path.normpath(places["state_dir"]) or os.path.isdir(folder):  # noqa: PTH112 - as above
        return ""
    sentence = "is no folder: correct the path" if os.path.exists(folder) else "does not exist: make it, or correct the path"  # noqa: PTH110 - as above
    return f'names the folder "{folder}", which {sentence}'


def _no_user(spec: WorkerSpec) -> str:
    """Return what is wrong with the user that it runs as; empty where there is one, and where none is named."""
    try:
        if spec.user:
            pwd.getpwuid(int(spec.user)) if spec.user.isdecimal() else pwd.getpwnam(spec.user)
    except (KeyError, OverflowError):
        return f'names the user "{spec.user}", whom this machine does not know: add it, or correct the name'
    return ""
