"""`warden logs`: the end of a log, and what comes after it."""

import glob
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from supervisor.cli.complete import workers
from supervisor.cli.context import JSON, Context, Exit
from supervisor.config import Folders
from supervisor.errors import SupervisorError

_LOOK_S: Final = 0.2
_BLOCK: Final = 64 * 1024


@click.command()
@click.argument("name", required=False, shell_complete=workers)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, metavar="N", help="How many lines of the past.")
@JSON
@click.pass_obj
def logs(context: Context, name: str | None, *, follow: bool, lines: int, as_json: bool) -> None:
    """Show Warden's log, or what a worker printed (NAME: sam-0, or sam for all of its workers).

    With --json one value a line: Warden's events with raw numbers, or {"worker": ..., "line": ...}.
    """
    paths = _paths(context, name, "watchdog.jsonl" if as_json else "watchdog.log")
    for path in paths:
        if len(paths) > 1 and not as_json:
            print(f"==> {path.stem} <==")
        with path.open("rb") as file:
            for line in last_lines(file, lines):
                sys.stdout.write(_said(path, line, as_json=as_json))
    sys.stdout.flush()
    if follow:
        try:
            _follow(paths, as_json=as_json)
        except KeyboardInterrupt:
            sys.exit(Exit.OK)


def _said(path: Path, line: bytes, *, as_json: bool, prefix: str = "") -> str:
    """Return a line of a log as it is printed. Warden's own log for programs is JSON already."""
    text = line.decode(errors="replace")
    if not as_json or path.suffix == ".jsonl":
        return prefix + text
    return json.dumps({"worker": path.stem, "line": text.rstrip("\n")}) + "\n"


def _paths(context: Context, name: str | None, own: str) -> list[Path]:
    folders = context.folders
    log_dir = folders.log_dir
    if name is None:
        wanted = [log_dir / own]
    else:
        name = Path(name).name  # a worker, not a way out of the folder
        wanted = [log_dir / "workers" / f"{one}.log" for one in _workers(folders, name)]
    found = [path for path in wanted if path.is_file()]
    if not found and folders.error is not None:
        raise folders.error
    if not found:
        raise SupervisorError(f"{', '.join(map(str, wanted))}: no such log yet; there are {_known(log_dir)}")
    return found


def _workers(folders: Folders, name: str) -> list[str]:
    """Return the workers of this name; of a model all, which for a broken file are those that left a log."""
    if folders.loaded is None:
        logs = sorted((folders.log_dir / "workers").glob(f"{glob.escape(name)}-*.log"))
        return [name, *(path.stem for path in logs if path.stem.removeprefix(f"{name}-").isdigit())]
    models = folders.loaded.limits.workers
    return [f"{name}-{i}" for i in range(models[name].replicas)] if name in models else [name]


def _known(log_dir: Path) -> str:
    return ", ".join(path.stem for path in sorted((log_dir / "workers").glob("*.log"))) or "none: has warden run been started?"


def last_lines(file: BinaryIO, count: int) -> list[bytes]:
    """Return the last lines of a file, read from its end: a log of gigabytes costs as little as a small one."""
    end = file.seek(0, os.SEEK_END)
    data = b""
    while end > 0 and data.count(b"\n") <= count:
        start = max(0, end - _BLOCK)
        file.seek(start)
        data = file.read(end - start) + data
        end = start
    return data.splitlines(keepends=True)[-count:] if count > 0 else []


def _follow(paths: list[Path], *, as_json: bool) -> None:
    """Print what is appended. A file that became shorter was rotated by copying: it is read from its start, so a line may repeat, none is missed."""
    offsets = {path: path.stat().st_size for path in paths}
    while True:
        for path in paths:
            for chunk in _appended(path, offsets):
                prefix = f"{path.stem}: " if len(paths) > 1 else ""
                sys.stdout.write("".join(_said(path, line, as_json=as_json, prefix=prefix) for line in chunk.splitlines(keepends=True)))
                sys.stdout.flush()
        time.sleep(_LOOK_S)


def _appended(path: Path, offsets: dict[Path, int]) -> Iterator[bytes]:
    try:
        size = path.stat().st_size
        if size < offsets[path]:
            offsets[path] = 0
        if size > offsets[path]:
            with path.open("rb") as file:
                file.seek(offsets[path])
                chunk = file.read(size - offsets[path])
            offsets[path] += len(chunk)
            yield chunk
    except FileNotFoundError:
        offsets[path] = 0
