"""The probe: a process that asks the driver, so that a driver which hangs hangs nobody else. Started as `python -P -m supervisor.helpers.probe PARENT`."""

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, Final

from supervisor.errors import WireError
from supervisor.helpers import nvml, xids
from supervisor.probing import HELLO, UNASKED, Answer, Question, Xid, encode, question_in

_SET_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG


class _Server:
    """Answers questions, and tells of faults meanwhile."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._one_at_a_time = threading.Lock()
        self._is_open = False
        self._handles: dict[str, Any] = {}

    def say(self, answer: Answer) -> None:
        """Send one line."""
        with self._one_at_a_time:
            self._answers.write(encode(answer))
            self._answers.flush()

    def answer(self, question: Question) -> Answer:
        """Return the answer. The driver is opened with the first question, and a card is looked up once: whoever asks ends us after a failure."""
        try:
            if not self._is_open:
                nvml.open_driver()
                self._is_open = True
            if not question.card:
                return Answer(serial=question.serial, cards=nvml.cards())
            return Answer(serial=question.serial, reading=nvml.reading(self._handle(question)))
        except nvml.Unreadable as error:
            return Answer(serial=question.serial, trouble=error.trouble)

    def _handle(self, question: Question) -> Any:
        """Return the card's handle; from its first use on faults of it are told, by a thread of their own: neither they nor readings wait for the other."""
        if question.card not in self._handles:
            handle = self._handles[question.card] = nvml.handle_of(question.card, question.place)
            threading.Thread(target=xids.watch, args=(handle, partial(self._tell, question.card)), daemon=True).start()
        return self._handles[question.card]

    def _tell(self, card: str, code: int) -> None:
        with suppress(OSError):  # whoever asked is gone, and so are we in a moment
            self.say(Answer(serial=UNASKED, xid=Xid(card, code)))


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nobody asks any more."""
    server = _Server(answers)
    server.say(Answer(serial=HELLO))
    for line in questions:
        server.say(server.answer(question_in(line)))


def _end_with(parent: int) -> bool:
    """Have the kernel end this process when its parent ends: one that hangs in the driver reads no end of its stdin. False where it has ended already."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    return os.getppid() == parent


def main(arguments: list[str]) -> int:
    """Serve stdin and stdout. Whatever else writes to stdout, the driver's library perhaps, gets stderr."""
    if arguments and not _end_with(int(arguments[0])):
        return 0
    answers = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(answers, "wb") as out:
            serve(sys.stdin.buffer, out)
    except BrokenPipeError:  # whoever asked is gone
        return 0
    except WireError as error:
        print(f"probe: {error}", file=sys.stderr)  # noqa: T201  # stderr is the supervisor's
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
