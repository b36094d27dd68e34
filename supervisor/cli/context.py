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

from supervisor.config import Folders, Loaded, find, folders, load
from supervisor.control import Client, JSONValue, Unreachable, endpoint_of, holder_of
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

    def __init__(self, *, config_path: str | None, environ: Mapping[str, str], quiet: bool = False) -> None:
        """Keep what was given; nothing is read yet. quiet: nobody must be told on the way what is wrong with the file."""
        self.config_path = config_path
        self.environ = environ
        self._quiet = quiet
        self._noted: set[str] = set()

    @cached_property
    def loaded(self) -> Loaded:
        """Return the configuration. Raises ConfigError."""
        return load(find(self.config_path, self.environ, Path.cwd()), self.environ)

    @cached_property
    def folders(self) -> Folders:
        """Return where the state and the logs lie, also of a file that is broken. Raises ConfigError where there is none."""
        return folders(find(self.config_path, self.environ, Path.cwd()), self.environ)

    @property
    def state_dir(self) -> Path:
        """Return the state folder of the supervisor that runs by this file; where none does, the folder that the file names.

        An edit of state_dir waits for a restart: until then the supervisor is where it was, and holds its log folder.
        """
        named, holder = self.folders.state_dir, holder_of(self.folders.log_dir)
        if holder is None or holder.config != str(self.folders.config) or holder.state_dir == str(named):
            return named
        if not nobody_at(named) or nobody_at(Path(holder.state_dir)):
            return named
        if self.folders.error is None:
            held = f"the supervisor that runs (pid {holder.pid}) is still on {holder.state_dir}"
            self._note(f"{self.folders.config.name} says state_dir = {named}; {held}: only a restart moves it")
        return Path(holder.state_dir)

    def endpoint(self) -> str:
        """Return where the supervisor listens, or will. Raises Unreachable for a user who may not look there."""
        state_dir = self.state_dir
        try:
            (state_dir / "control.sock").stat()
        except PermissionError as error:
            raise Unreachable(f"{state_dir} is closed to this user: run it as {_owner(state_dir)}") from error
        except OSError:  # it may come yet
            pass
        return endpoint_of(state_dir)

    def client(self) -> Client:
        """Return a connection. Raises at once where no supervisor can be there: ConfigError where the file is broken as well, else Unreachable."""
        self.endpoint()
        error = self.folders.error
        if problem := nobody_at(self.state_dir):
            raise error or Unreachable(problem + self._neighbour())
        if error is not None:
            more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
            self._note(f"{error.problems[0]}{more}")
            self._note("The supervisor that runs goes on with what was in force before; mend the file, and see: warden check")
        return Client(self.endpoint)

    def _neighbour(self) -> str:
        """Return who else writes the logs of this file, where somebody does."""
        holder = holder_of(self.folders.log_dir)
        if holder is None or holder.config == str(self.folders.config) or nobody_at(Path(holder.state_dir)):
            return ""
        return f"\nthe supervisor with pid {holder.pid} writes the same logs, and runs on {holder.state_dir}: warden --config {holder.config} status"

    def _note(self, sentence: str) -> None:
        """Tell people something, once."""
        if sentence not in self._noted and not self._quiet:
            self._noted.add(sentence)
            print(sentence, file=sys.stderr)

    def ask(self, op: str, args: Mapping[str, JSONValue], shape: type[Shape], *, timeout_s: float = 10.0) -> Shape:
        """Return the answer as its shape. Raises Refused or Unreachable."""
        with self.client() as client:
            return msgspec.convert(client.ask(op, args, timeout_s=timeout_s), shape)

    def status(self) -> StatusView:
        """Return the supervisor's status."""
        return self.ask("status", {}, StatusView)


def nobody_at(state_dir: Path) -> str:
    """Return why nobody can answer for this state folder, empty when somebody listens. At once: a request would wait for its whole deadline."""
    path = endpoint_of(state_dir).removeprefix("ipc://")
    none_runs = f"no supervisor runs on {state_dir} ({{}}): start it with: warden run"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            if pid := _locked_by(state_dir / "supervisor.lock"):
                return f"a supervisor (pid {pid}) runs on {state_dir}, but there is no socket: it is made within seconds, so ask again"
            return none_runs.format("there is no socket")
        except ConnectionRefusedError:
            return none_runs.format("nobody listens at the socket that one left")
        except OSError as error:
            return none_runs.format(f"{path}: {error.strerror}")
    return ""


def _owner(folder: Path) -> str:
    try:
        return f"{folder.owner()}, whose folder it is"
    except (OSError, KeyError):  # its own parent is closed as well, or the user was deleted
        return "the user that it belongs to"


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
