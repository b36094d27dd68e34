"""Other supervisors for the benchmarks, from a package index, in a virtualenv of their own that goes with its folder: supervisord and circus."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.bench._warden import environment

PACKAGES: Final = {"supervisord": ("supervisor", "setuptools<81"), "circus": ("circus",)}  # supervisord's start needs pkg_resources
_STOP_S: Final = 30.0


def install(folder: Path) -> dict[str, Path]:
    """Return the program of each peer that could be installed; the others are named on stdout."""
    place = folder / "peers"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    pip = [str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    programs = {"supervisord": place / "bin/supervisord", "circus": place / "bin/circusd"}
    for name, packages in PACKAGES.items():
        if subprocess.run([*pip, *packages], check=False).returncode:
            print(f"{name} could not be installed and is skipped")
            del programs[name]
    return programs


def supervisord_command(program: Path, folder: Path, command: str, *, count: int) -> list[str]:
    """Return the command line of a supervisord that keeps so many processes of a command."""
    file = folder / "supervisord.conf"
    file.write_text(f"""[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}
minfds = 2048
[program:many]
command = {command}
process_name = %(program_name)s_%(process_num)s
numprocs = {count}
startsecs = 0
autorestart = true
stopwaitsecs = 5
""")
    return [str(program), "-c", str(file)]


def circus_command(program: Path, folder: Path, command: str, *, count: int, check_delay: float | None = None) -> list[str]:
    """Return the command line of a circusd that does the same. check_delay: how often it looks, in seconds; None leaves its default of 5."""
    file = folder / "circus.ini"
    delay = "" if check_delay is None else f"check_delay = {check_delay}\n"
    file.write_text(f"""[circus]
{delay}endpoint = ipc://{folder}/circus-1
pubsub_endpoint = ipc://{folder}/circus-2
[watcher:many]
cmd = {command}
numprocesses = {count}
graceful_timeout = 5
warmup_delay = 0
""")
    return [str(program), str(file)]


@contextmanager
def running(command: list[str], folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield a peer, which is gone afterwards. It must not find the project: supervisord's package has the name of ours."""
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    with (folder / "peer.out").open("ab") as out:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # each ends its processes first
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
