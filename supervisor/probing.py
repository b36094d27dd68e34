"""What the supervisor and its probe say to each other: one JSON line for each question and each answer, over the probe's stdin and stdout."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

from supervisor.errors import WireError

MODULE: Final = "supervisor.helpers.probe"
"""What is started with `python -P -m`; its one argument is the pid of whoever starts it, with whom it ends."""

HELLO: Final = 0
"""The serial of the first line: the probe is up, and has not touched the driver yet."""
UNASKED: Final = -1
"""The serial of what is told without a question."""


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked. card: a UUID, for a reading of that card; empty: which cards there are. place: its number when the cards were listed, -1: not known."""

    serial: int
    card: str = ""
    place: int = -1


class User(Struct, frozen=True, kw_only=True):
    """A process that the driver lists on a card. used_bytes: None where the driver does not tell."""

    pid: int
    used_bytes: int | None


class Reading(Struct, frozen=True, kw_only=True):
    """One reading of a card. users: None where the driver lists no processes at all. utilisation: percent; minor: of its node; None where it cannot be read."""

    total_bytes: int
    used_bytes: int
    free_bytes: int
    users: tuple[User, ...] | None
    utilisation: int | None = None
    minor: int | None = None


class Trouble(Struct, frozen=True, kw_only=True):
    """Why there is no reading. lost: the card does not work; unverifiable: it may, but nothing can be proved about its memory. hint: what a person can do."""

    state: Literal["lost", "unverifiable"]
    what: str
    hint: str


class Card(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A card that the driver lists. total_bytes: 0 where it could not be read; place: the driver's number for it; trouble: why nothing can be proved on it."""

    uuid: str
    name: str
    total_bytes: int
    place: int = -1
    trouble: Trouble | None = None


class Xid(Struct, frozen=True):
    """A fault that the driver reports of a card, by the number that its vendor's catalogue explains."""

    card: str
    code: int


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is answered: the cards, a reading, or the trouble with them. Unasked, with the serial UNASKED: a fault of a card."""

    serial: int
    cards: tuple[Card, ...] | None = None
    reading: Reading | None = None
    trouble: Trouble | None = None
    xid: Xid | None = None


_encoder = msgspec.json.Encoder()
_questions = msgspec.json.Decoder(Question)
_answers = msgspec.json.Decoder(Answer)


def encode(message: Question | Answer) -> bytes:
    """Return the message as a line."""
    return _encoder.encode(message) + b"\n"


def question_in(line: bytes) -> Question:
    """Return the question. Raises WireError."""
    try:
        return _questions.decode(line)
    except msgspec.MsgspecError as error:
        raise WireError(f"{error}; expected a question to the probe, found {line[:80]!r}") from error


def answer_in(line: bytes) -> Answer:
    """Return the answer. Raises WireError."""
    try:
        return _answers.decode(line)
    except msgspec.MsgspecError as error:
        raise WireError(f"{error}; expected an answer of the probe, found {line[:80]!r}") from error
