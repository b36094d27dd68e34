"""Where the devices are, and how one is asked for."""

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from supervisor.client.lease import Lease, OnAway
from supervisor.client.lines import SECONDS_MAX, Control, Http, Line
from supervisor.client.numbers import seconds, whole
from supervisor.client.patience import Patience

LOAD_S: Final = 120.0
"""To wait for a device that a model is to be loaded to."""
INFERENCE_S: Final = 60.0
"""To wait for one with work that somebody looks at."""
STATUS_S: Final = 10.0
"""To wait for a status."""
_PRIORITY_MAX: Final = 1_000_000
_PURPOSES: Final = ("inference", "load")
_AWAY: Final = ("wait", "without", "fail")


class Gpu:
    """The devices of one supervisor."""

    def __init__(self, where: str | os.PathLike[str] | None = None, *, token: str = "", line: Line | None = None, patience: Patience | None = None) -> None:
        """Ask nothing yet. Raises ValueError for an address that is none.

        where: http://HOST:PORT for the API (token: where it needs one); a state folder or a supervisor.toml for the control socket, which the user that the
        supervisor runs as may use; None: the control socket of the supervisor that the command line would find.
        """
        url = where if isinstance(where, str) and "://" in where else ""
        self._line = line or (Http(url, token) if url else Control(Path(where) if where is not None else None))
        self._patience = patience or Patience()

    def lease(
        self,
        *,
        need: str = "0",
        priority: int = 15,
        timeout: float = LOAD_S,
        ttl: float = 30.0,
        device: str = "",
        owner: str = "",
        away: OnAway = "wait",
        on_lost: Callable[[str], None] | None = None,
        ticket: str = "",
        purpose: Literal["inference", "load"] = "inference",
    ) -> Lease:
        """Return a lease to be entered with `with`. Raises ValueError for what is none of these.

        need: what must be free, such as "8GiB"; priority: 0 is the most urgent, and whoever waits ages; timeout: seconds to wait, then Busy; math.inf: for
        ever; ttl: seconds within which it is renewed (over HTTP nothing else shows that its owner lives; by the control socket 0: never); device: this one
        and no other; owner: what it is called, by default this program. away: what to do where no supervisor answers: "wait" for it, until timeout; go on
        "without"; or "fail" with Away. on_lost: called by the thread that renews, with why. ticket: of a Busy, whose age counts on. purpose: "load" for
        the lock under which models are loaded on a device, one at a time, each within gpu.load_timeout: the device is taken first, and no need is said here.
        """
        if away not in _AWAY:
            raise ValueError(f"away must be one of {', '.join(_AWAY)}, {away!r} was found")
        if not isinstance(ticket, str):
            raise ValueError(f"ticket must be a str, the ticket of a Busy, {ticket!r} was found")  # noqa: TRY004  # as for every other value that is none
        if purpose not in _PURPOSES:
            raise ValueError(f"purpose must be one of {', '.join(_PURPOSES)}, {purpose!r} was found")
        whole("priority", priority, most=_PRIORITY_MAX)
        timeout_s = seconds("timeout", timeout, for_ever=True)
        ttl_s = seconds("ttl", ttl, most=SECONDS_MAX, zero=self._line.proves_pid)
        name = owner or Path(sys.argv[0]).name or f"pid {os.getpid()}"
        asked = {"owner": name, "priority": priority, "need": need, "ticket": ticket or f"t-{secrets.token_hex(8)}", **({"device": device} if device else {})}
        if purpose != "inference":
            asked["purpose"] = purpose
        return Lease(self._line, asked, timeout_s=timeout_s, ttl_s=ttl_s, away=away, on_lost=on_lost, patience=self._patience)

    def status(self, *, timeout: float = STATUS_S) -> list[dict[str, Any]]:
        """Return each device with its holders and waiters, in the shape of `warden gpu status --json`. Raises Away, Refused, ValueError."""
        return self._line.devices(seconds("timeout", timeout, most=SECONDS_MAX, zero=False))
