"""What can go wrong, split by who must act.

Every message says what was found, what was expected, where, and what to do. Failures that the world is expected to have (a refused spawn, a pid that
is gone) are events, not exceptions.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or worth a warning, in the configuration: where it stands, and the sentence.

    where: "supervisor.toml:31", "environment WARDEN_GPU__MARGIN" or "command line".  line: the line in the file, 0 when there is none.
    """

    where: str
    sentence: str
    line: int = 0

    def __str__(self) -> str:
        """Return the line that a person reads: "supervisor.toml:31: memory.worker_soft = ..."."""
        return f"{self.where}: {self.sentence}"


class SupervisorError(Exception):
    """The root: anything that Warden raises on purpose."""


class ConfigError(SupervisorError):
    """The operator must act: the configuration is missing or wrong. `problems` holds every one of them, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Make the error from its problems; its text has one line for each."""
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class WireError(SupervisorError):
    """The peer must act: bytes that are no message, or a message that breaks the protocol. It is dropped and counted."""


class StoreError(SupervisorError):
    """The disk must be seen to: the store cannot be opened, read or written."""


class StateError(SupervisorError):
    """The operator must act: the state folder or the log folder cannot be used."""


class Taken(SupervisorError):
    """The operator must choose: another supervisor runs on this state folder."""
