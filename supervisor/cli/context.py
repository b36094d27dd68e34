"""What every command needs: the configuration, the connection, the exit codes."""

import socket
import sys
from collections.abc import Mapping
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from supervisor.config import Loaded, find, load
from supervisor.control import Client, JSONValue, Unreachable, endpoint_of
from supervisor.shapes import StatusView

Shape = TypeVar("Shape")


JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


class Exit(IntEnum):
    """Exit codes, as the manual lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNHEALTHY = 3
    UNREACHABLE = 4
    BUSY = 75
    CONFIG = 78


class Context:
    """One run of the command line."""

    def __init__(self, *, config_path: str | None, environ: Mapping[str, str]) -> None:
        """Keep what was given; nothing is read yet."""
        self.config_path = config_path
        self.environ = environ

    @cached_property
    def loaded(self) -> Loaded:
        """Return the configuration. Raises ConfigError."""
        return load(find(self.config_path, self.environ, Path.cwd()), self.environ)

    @property
    def state_dir(self) -> Path:
        """Return the supervisor's state folder."""
        return Path(self.loaded.limits.supervisor.state_dir)

    def client(self) -> Client:
        """Return a connection. Raises Unreachable at once, with the reason, where no supervisor can be there."""
        endpoint = endpoint_of(self.state_dir)
        if problem := _nobody_at(endpoint.removeprefix("ipc://")):
            if pid := _locked_by(self.state_dir / "supervisor.lock"):
                raise Unreachable(f"a supervisor (pid {pid}) runs on {self.state_dir}, but {problem}: it is made within seconds, so ask again")
            raise Unreachable(f"no supervisor runs on {self.state_dir} ({problem}): start it with: warden run")
        return Client(lambda: endpoint)

    def ask(self, op: str, args: Mapping[str, JSONValue], shape: type[Shape], *, timeout_s: float = 10.0) -> Shape:
        """Return the answer as its shape. Raises Refused or Unreachable."""
        with self.client() as client:
            return msgspec.convert(client.ask(op, args, timeout_s=timeout_s), shape)

    def status(self) -> StatusView:
        """Return the supervisor's status."""
        return self.ask("status", {}, StatusView)


def _nobody_at(path: str) -> str:
    """Return why nobody can answer at this socket, empty when somebody listens. At once: a request would wait for its whole deadline."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return "there is no socket"
        except ConnectionRefusedError:
            return "nobody listens at the socket that one left"
        except OSError as error:
            return f"{path}: {error.strerror}"
    return ""


def _locked_by(lock: Path) -> str:
    """Return the pid of the supervisor that holds the state folder; empty where none does. Looked up, not tried: to take the lock would refuse a start."""
    try:
        pid, inode = lock.read_text().strip(), lock.stat().st_ino
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ""
    return pid if any("FLOCK" in words and pid in words and any(word.endswith(f":{inode}") for word in words) for words in held) else ""


def print_json(value: object) -> None:
    """Print a shape for programs: one JSON value, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
