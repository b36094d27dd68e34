"""A device as a program has it: taken by `with`, renewed by a thread of its own, given back at the end, and said to be lost when it is."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

from supervisor.client.lines import ANSWER_MAX_S, Line
from supervisor.client.patience import Patience
from supervisor.client.problems import Away, Busy, GpuError, Lost, Refused

OnAway = Literal["wait", "without", "fail"]
_GIVE_BACK_S: Final = 10.0
_LOOK_S: Final = 0.1
"""The last question before a lease is over is given so long."""
_QUESTION_MAX_S: Final = 3600.0
"""One question waits so long; who waits longer asks again with the same ticket."""
_RENEWALS: Final = 3
"""In the time that a lease has: two of three may fail."""
_log = logging.getLogger("supervisor.client")


class Lease:
    """A device, once it is entered.

    id, fence, device: as the supervisor names them; the fence only rises, so that whatever the program publishes can be told from an older holder's.
    env: what makes a program see that device alone; it must be in the environment before CUDA begins. held: False where the program goes on without.
    yield_wanted: as of the last renewal, somebody waits to whom it should be given soon (wanted_by: who that is). The program decides.
    """

    def __init__(
        self, line: Line, asked: Mapping[str, Any], *, timeout_s: float, ttl_s: float, away: OnAway, on_lost: Callable[[str], None] | None, patience: Patience
    ) -> None:
        """Ask nothing yet."""
        self.id = ""
        self.fence = 0
        self.device = ""
        self.env: dict[str, str] = {}
        self.held = False
        self.yield_wanted = False
        self.wanted_by = ""
        self.lost = threading.Event()
        self.ticket = str(asked.get("ticket", ""))
        self._line = line
        self._asked = {**asked, "ttl_s": ttl_s}
        self._timeout_s = timeout_s
        self._away: OnAway = away
        self._on_lost = on_lost
        self._patience = patience
        self._why = ""
        self._entered = False
        self._until_s: float | None = None
        self._over = threading.Event()
        self._renewing: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Return it once it is held, or the program may go on without. Raises Busy, Away or Refused."""
        if self._over.is_set() or self.held:
            raise GpuError("a lease is entered once: ask for another")
        try:
            granted, sent_s = self._granted()
        except Away:
            if self._away != "without":
                raise
            _log.warning("no supervisor answers: the device is used without a lease")
            self._entered = True
            return self
        self._entered = True
        self.id, self.fence, self.device, self.env = granted["lease"], granted["fence"], granted["device"], dict(granted["env"])
        self.held = True
        self._take(granted, sent_s)
        if granted["expires_in_s"] is not None:
            self._renewing = threading.Thread(target=self._renew, args=(granted["expires_in_s"],), name=f"lease {self.id}", daemon=True)
            self._renewing.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        """Give it back. That it cannot be is logged, not raised: what came of the work counts more."""
        self._over.set()
        if self._renewing is not None:
            self._renewing.join()
        if self.held and not self.lost.is_set():
            self._give_back()
        self.held = False

    def check(self) -> None:
        """Raise Lost where the lease was lost; to be called between two steps of the work. Raises GpuError for one that was never entered."""
        if not self._entered:
            raise GpuError("this lease was never entered, so that nothing is held: write `with gpu.lease(...) as lease`, and check inside")
        if self.lost.is_set():
            raise Lost(self._why)

    def _granted(self) -> tuple[Mapping[str, Any], float]:
        """Return the answer that has the device, and when it was asked for. One ticket for all questions keeps the age of the wait."""
        end_s = time.monotonic() + self._timeout_s
        tries = self._patience.tries()
        while True:
            sent_s = time.monotonic()
            try:
                return self._question(min(_QUESTION_MAX_S, max(0.0, end_s - sent_s))), sent_s
            except Busy as error:
                last: GpuError = error
                self.ticket = error.ticket
                pause_s = self._patience.after(error.retry_after_s)
            except Away as error:
                last = error
                if self._away != "wait":
                    raise
                pause_s = next(tries)
            if time.monotonic() + pause_s >= end_s:
                raise last
            self._patience.pause(pause_s)

    def _question(self, left_s: float) -> Mapping[str, Any]:
        try:
            return self._line.lock({**self._asked, "ticket": self.ticket}, round(left_s, 3))
        except GpuError:
            raise
        except BaseException:  # Ctrl-C: nobody waits any more for what may be granted yet
            self._quietly(lambda: self._line.withdraw(self.ticket))
            raise

    def _renew(self, expires_in_s: float) -> None:
        usual_s = pause_s = expires_in_s / _RENEWALS
        tries = self._patience.tries()
        while not self._over.wait(min(pause_s, self._left_s())):
            sent_s = time.monotonic()
            try:
                self._take(self._line.renew({"lease": self.id, "fence": self.fence}, min(ANSWER_MAX_S, max(_LOOK_S, self._left_s()))), sent_s)
                tries, pause_s = self._patience.tries(), usual_s
            except Refused as error:
                self._lose(str(error))
                return
            except Exception as error:  # noqa: BLE001  # Away, or what nobody thought of: this thread must not end unheard
                words = str(error) if isinstance(error, Away) else f"{type(error).__name__}: {error}"
                if not isinstance(error, Away):
                    _log.warning("%s could not be renewed, and is tried again: %s", self.id, words, exc_info=error)
                if not self._left_s():
                    self._lose(f"{self.id} could not be renewed in time: {words}")
                    return
                pause_s = min(next(tries), usual_s)

    def _take(self, answer: Mapping[str, Any], sent_s: float) -> None:
        """Note who should have it soon, and until when the lease is surely ours: counted from the question on, which came before the supervisor's own count.

        Where our process is proved there is no such instant: a supervisor that was away finds the lease, and us with it.
        """
        expires_in_s = answer["expires_in_s"]
        self._until_s = None if expires_in_s is None or self._line.proves_pid else sent_s + expires_in_s
        self.wanted_by, self.yield_wanted = str(answer.get("wanted_by") or ""), bool(answer.get("yield_wanted"))

    def _left_s(self) -> float:
        return threading.TIMEOUT_MAX if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    def _lose(self, why: str) -> None:
        self._why = why
        self.lost.set()
        _log.error("the device is lost: %s", why)
        if self._on_lost is not None:
            try:
                self._on_lost(why)
            except Exception:  # noqa: BLE001  # the program's own: whatever it raises
                _log.exception("on_lost failed; the device is lost all the same")

    def _give_back(self) -> None:
        end_s = time.monotonic() + _GIVE_BACK_S
        tries = self._patience.tries()
        while True:
            try:
                self._line.unlock({"lease": self.id, "fence": self.fence})
            except Refused as error:
                _log.warning("%s was over already: %s", self.id, error)
                return
            except Away as error:
                pause_s = next(tries)
                if time.monotonic() + pause_s >= end_s:
                    until = "this process ends" if self._line.proves_pid else "its time is over"
                    _log.warning("%s could not be given back, and is held until %s: %s", self.id, until, error)
                    return
                self._patience.pause(pause_s)
            else:
                return

    @staticmethod
    def _quietly(ask: Callable[[], None]) -> None:
        try:
            ask()
        except GpuError as error:
            _log.info("the wait could not be taken back: %s", error)
