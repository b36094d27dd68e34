"""The probe: a process that asks the driver, so that a driver which hangs hangs nobody else. Started as `python -P -m supervisor.helpers.probe PARENT`."""

import ctypes
import os
import signal
import sys
from typing import BinaryIO, Final

from supervisor.errors import WireError
from supervisor.helpers import nvml
from supervisor.probing import HELLO, Answer, Question, encode, question_in

_SET_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nobody asks any more. The driver is opened with the first question."""
    _say(answers, Answer(serial=HELLO))
    is_open = False
    for line in questions:
        question = question_in(line)
        try:
            if not is_open:
                nvml.open_driver()
                is_open = True
            answer = _answer(question)
        except nvml.Unreadable as error:
            answer = Answer(serial=question.serial, trouble=error.trouble)
        _say(answers, answer)


def _answer(question: Question) -> Answer:
    if question.card:
        return Answer(serial=question.serial, reading=nvml.reading(question.card))
    return Answer(serial=question.serial, cards=nvml.cards())


def _say(answers: BinaryIO, answer: Answer) -> None:
    answers.write(encode(answer))
    answers.flush()


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
