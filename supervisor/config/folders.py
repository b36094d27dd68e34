"""Where a configuration puts the state and the logs, read leniently: whoever asks a supervisor needs no more, and the file may be broken by now."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import tomli
from msgspec import Struct

from supervisor.config.effective import Loaded, load
from supervisor.config.source import MAX_FILE_BYTES
from supervisor.core.limits import SupervisorLimits
from supervisor.errors import ConfigError

_LINE: Final = re.compile(r"^\s*(?:supervisor\s*\.\s*)?(state_dir|log_dir)\s*=.*$", re.MULTILINE)


class Folders(Struct, frozen=True, kw_only=True):
    """Where a supervisor of this file keeps its state and its logs. Either the file holds (loaded), or error says everything that is wrong with it."""

    config: Path
    state_dir: Path
    log_dir: Path
    loaded: Loaded | None = None
    error: ConfigError | None = None


def folders(path: Path, environ: Mapping[str, str]) -> Folders:
    """Return the folders of this file; of one that is broken those that can still be made out, else the defaults."""
    try:
        loaded = load(path, environ)
    except ConfigError as error:
        named = {"state_dir": SupervisorLimits().state_dir, "log_dir": SupervisorLimits().log_dir, **_made_out(path), **_from_environ(environ)}
        home = path.absolute().parent
        return Folders(config=path.absolute(), state_dir=home / named["state_dir"], log_dir=home / named["log_dir"], error=error)
    service = loaded.limits.supervisor
    return Folders(config=loaded.path, state_dir=Path(service.state_dir), log_dir=Path(service.log_dir), loaded=loaded)


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    names = {name: environ.get(f"WARDEN_SUPERVISOR__{name.upper()}", "") for name in ("state_dir", "log_dir")}
    return {name: folder for name, folder in names.items() if folder}


def _made_out(path: Path) -> dict[str, str]:
    """Return what a broken file says of its folders: of one that is no TOML each such line that is."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES).decode(errors="replace")
    except OSError:
        return {}
    tables = [_values(text), *(_values(line[0]) for line in _LINE.finditer(text))]
    found: dict[str, str] = {}
    for table in reversed(tables):  # the file as a whole, where it is TOML, says more than its lines
        service = table.get("supervisor", table)
        if isinstance(service, dict):
            found |= {name: folder for name in ("state_dir", "log_dir") if isinstance(folder := service.get(name), str) and folder}
    return found


def _values(text: str) -> dict[str, object]:
    try:
        return tomli.loads(text)
    except (tomli.TOMLDecodeError, RecursionError):
        return {}
