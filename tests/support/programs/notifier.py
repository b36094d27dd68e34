"""A program that speaks sd_notify(3) and knows nothing of Warden: `notifier.py MODE`.

well: ready, then beats and a new status every 0.2 s. once: ready with a status, then nothing ever again. calm: a beat every 5 s.
mute: never ready. slow: ready after 6 s, and asks for the time. asks: asks for 5 s once, and is never ready.
silent: stops its beats after 5. stands: goes on beating, but its status stays the same after 5.
"""

import os
import select
import socket
import sys


def say(text: str) -> None:
    """Send one message, as libsystemd does: a new socket each time. A manager that is away is no reason to stop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        try:
            line.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
        except OSError as error:
            sys.stderr.write(f"not heard: {error}\n")


def wait(seconds: float) -> None:
    """Let time pass."""
    select.select([], [], [], seconds)


def run(mode: str) -> None:
    """Behave as the mode says, for ever."""
    if mode in {"slow", "asks"}:
        say(f"EXTEND_TIMEOUT_USEC={20_000_000 if mode == 'slow' else 5_000_000}\nSTATUS=building the index")
        wait(6.0 if mode == "slow" else 3600.0)
    if mode != "mute":
        say("READY=1\nSTATUS=serving\nMAINPID=1")
    step = 0
    while mode not in {"mute", "once"}:
        step += 1
        if mode != "silent" or step <= 5:
            say("WATCHDOG=1")
        if mode != "calm" and (mode != "stands" or step <= 5):
            say(f"STATUS=served {step}")
        wait(5.0 if mode == "calm" else 0.2)
    wait(3600.0)


if __name__ == "__main__":
    run(sys.argv[1])
