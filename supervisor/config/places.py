"""Where the configuration is looked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.errors import ConfigError, Problem

FILE_NAME: Final = "supervisor.toml"
SYSTEM_FILE: Final = Path("/etc/warden") / FILE_NAME


def find(explicit: str | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Return the absolute path of the file: --config, else $WARDEN_CONFIG, else the first there is of ./, the user's and the system's.

    A place that was named and holds no file is an error, never a reason to look further. Raises ConfigError that names every place looked at.
    """
    for name, place in (("--config", explicit), ("$WARDEN_CONFIG", environ.get("WARDEN_CONFIG"))):
        if place:
            path = cwd / place
            if not _is_there(path):
                raise ConfigError([Problem(name, f"{path}: there is no such file; name the right one, or leave {name} out to have it looked for")])
            return path
    places = [cwd / FILE_NAME]
    home = environ.get("XDG_CONFIG_HOME") or (environ.get("HOME") and f"{environ['HOME']}/.config")
    if home:
        places.append(Path(home) / "warden" / FILE_NAME)
    places.append(SYSTEM_FILE)
    for path in places:
        if _is_there(path):
            return path
    looked_at = ", ".join(["--config (not given)", "$WARDEN_CONFIG (not set)", *map(str, places)])
    raise ConfigError([Problem("configuration", f"there is no {FILE_NAME}; looked at {looked_at}: write one, or name one with --config")])


def _is_there(path: Path) -> bool:
    """Return whether something is there, readable or not: what cannot be read is reported by the reader, not passed over."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
