"""Bearer tokens: who may read, operate and administer."""

import hmac
import logging
import time
from collections.abc import Callable
from enum import IntEnum
from hashlib import sha256
from pathlib import Path
from typing import Final

from msgspec import Struct

LOOK_EVERY_S: Final = 1.0
"""How often the file is looked at, at most: so long a token that was taken out of it may still be good."""
_LOG: Final = logging.getLogger(__name__)


class Scope(IntEnum):
    """What a token allows; each includes those before it."""

    READ = 1
    OPERATE = 2
    ADMIN = 3


class Tokens(Struct, frozen=True):
    """All tokens, as digests with their scope. Without any, whoever can reach the socket may do everything."""

    known: tuple[tuple[bytes, Scope], ...]

    def __bool__(self) -> bool:
        """Return whether a token is asked for at all."""
        return bool(self.known)

    def scope_of(self, token: str) -> Scope | None:
        """Return what this token allows, None for an unknown one. Takes the same time for every token of any length."""
        digest = sha256(token.encode("utf-8", "surrogateescape")).digest()
        found: Scope | None = None
        for known, scope in self.known:
            if hmac.compare_digest(known, digest):
                found = scope
        return found


class TokenFile:
    """The tokens of a file that may be edited at any time.

    While it is missing or makes no sense, those that were read last count: a slip of the editor must neither open the door nor lock everybody out.
    """

    def __init__(self, path: Path, first: Tokens, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Begin with what was read of it at the start."""
        self._path = path
        self._known = first
        self._clock_s = clock_s
        self._looked_at_s: float | None = None
        self._seen: tuple[int, ...] = ()
        self._trouble = ""

    def now(self) -> Tokens:
        """Return the tokens that count now."""
        now_s = self._clock_s()
        if self._looked_at_s is None or now_s - self._looked_at_s >= LOOK_EVERY_S:
            self._looked_at_s = now_s
            self._look()
        return self._known

    def _look(self) -> None:
        try:
            facts = self._path.stat()
            seen = (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino)
            if seen == self._seen:
                return
            known = read_tokens(self._path)
        except (OSError, ValueError) as error:
            self._say_trouble(str(error))
            return
        self._seen, self._trouble = seen, ""
        if known != self._known:
            self._known = known
            _LOG.info("api.token_file %s was read again: its %d tokens count from now on", self._path, len(known.known))

    def _say_trouble(self, why: str) -> None:
        """Say it once, not each second; the file is tried again each time, and so is one that was only half written when it was read."""
        self._seen = ()
        if why != self._trouble:
            self._trouble = why
            _LOG.error("api.token_file %s cannot be used: %s; the %d tokens read before count until it is mended", self._path, why, len(self._known.known))


def read_tokens(path: Path) -> Tokens:
    """Return the tokens of a file: lines "token scope" with read, operate or admin, or one bare token that may do everything; "#" begins a comment.

    Raises ValueError with the line, OSError.
    """
    names = {scope.name.lower(): scope for scope in Scope}
    known = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        scope = words[1] if len(words) > 1 else "admin"
        if len(words) > 2 or scope not in names:  # noqa: PLR2004 - a token and its scope
            raise ValueError(f"line {number}: expected a token and its scope (read, operate or admin), found {len(words)} words")
        known.append((sha256(words[0].encode()).digest(), names[scope]))
    if not known:
        raise ValueError("it holds no token: write one line such as: $(openssl rand -hex 32) admin")
    return Tokens(tuple(known))
