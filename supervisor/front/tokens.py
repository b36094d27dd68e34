"""Bearer tokens: who may read, operate and administer."""

import hmac
from enum import IntEnum
from hashlib import sha256
from pathlib import Path

from msgspec import Struct


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
