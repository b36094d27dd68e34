"""A family of processes, each hard to get rid of in its own way. For tests and drills: `python -m workers.fake_tree FOLDER`; each writes its pid into FOLDER.

plain; forked twice and handed to init; in a session of its own; deaf to SIGTERM; stopped by SIGSTOP; renamed, with an empty environment and in a session of
its own, so that neither tag nor session nor parent tells whose it is; and one that bears a child every few milliseconds, also while it is being killed.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

KINDS = ("plain", "forked_twice", "own_session", "deaf", "stopped", "renamed", "bearing")
RENAMED = ("[kworker/9:9-warden]", "3600")
_BIRTHS = 50
_LONG_S = 3600


def main(folder: Path) -> None:
    """Bear the family, and wait for ever."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        _child(lambda kind=kind: _live(kind, folder))  # type: ignore[misc]  # the kind of this turn
    while len(list(folder.iterdir())) < len(KINDS):
        time.sleep(0.005)
    print("the family is complete", flush=True)
    while True:
        signal.pause()


def _child(life: Callable[[], None]) -> None:
    if os.fork() == 0:
        try:
            life()
        finally:
            os._exit(0)


def _live(kind: str, folder: Path) -> None:
    if kind == "forked_twice":
        os.setsid()
        _child(lambda: _stay(kind, folder))
        return
    if kind in ("own_session", "renamed", "bearing"):
        os.setsid()
    _stay(kind, folder)


def _stay(kind: str, folder: Path) -> None:
    if kind == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    partial = folder.with_name(f"{folder.name}.{kind}")
    partial.write_text(str(os.getpid()))
    partial.replace(folder / kind)
    if kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "renamed":
        os.execve("/bin/sleep", list(RENAMED), {})  # noqa: S606  # no shell: the name and the environment are the point
    for _ in range(_BIRTHS if kind == "bearing" else 0):
        _child(lambda: time.sleep(_LONG_S))
        time.sleep(0.005)
    time.sleep(_LONG_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
