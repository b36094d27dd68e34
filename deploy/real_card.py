"""Shows on this machine what no test without a card can: what its driver lists, how late memory comes back, and that a hand-over is proved by it.

    /opt/warden/bin/python deploy/real_card.py [--size 2GiB] [--rounds 5]

Run it while nothing else uses the card; it needs no service and leaves nothing behind. It starts a supervisor of its own in a temporary folder, and programs
that hold memory of the card through the driver's own library (libcuda, no torch). Exit 69: there is no card to show anything on (or no libcuda), and why.
"""

import argparse
import ctypes
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from supervisor.client import Gpu
from supervisor.control import Client, endpoint_of
from supervisor.probing import MODULE, Answer, Card, Question, Reading, answer_in, encode
from supervisor.units import format_size, parse_size

NO_CARD: Final = 69
WARDEN: Final = Path(sys.executable).with_name("warden")
_WITHIN_S: Final = 120.0
_LOOK_S: Final = 0.02
_SLACK_BYTES: Final = 64 * 2**20
_READINGS: Final = 100

Row = tuple[str, str]


# --- a program that holds memory ---


def hold(size_bytes: int) -> None:
    """Take so much of the card that CUDA_VISIBLE_DEVICES names, say so on stdout, and hold it until killed, or until whoever started us is gone."""
    parent = os.getppid()
    cuda = cuda_library()
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    for call in (
        lambda: cuda.cuInit(0),
        lambda: cuda.cuDeviceGet(ctypes.byref(device), 0),
        lambda: cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device),
        lambda: cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(size_bytes)),
    ):
        if error := call():
            sys.exit(f"CUDA error {error} on the way to {size_bytes} bytes")
    print("held", flush=True)
    while os.getppid() == parent:
        time.sleep(1)


def cuda_library() -> ctypes.CDLL:
    """Return the library of the driver by which memory is held, or end the run where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        why = "install the driver's CUDA library (in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility), or name a --holder"
        print(f"nothing can hold memory of the card: libcuda.so.1 cannot be loaded ({error}); {why}", file=sys.stderr)
        sys.exit(NO_CARD)


class Holder:
    """Such a program, until it is ended."""

    def __init__(self, command: Sequence[str], card: str) -> None:
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": card, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SystemExit(f"the program that holds memory ended with {self.process.wait()}: {' '.join(command)}")

    def kill(self) -> float:
        """Kill it, and return the instant at which it was gone."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            self.process.send_signal(signal.SIGKILL)
            select.select([pidfd], [], [], _WITHIN_S)
            return time.monotonic()
        finally:
            os.close(pidfd)
            self.process.communicate()


# --- what the driver says, through the supervisor's own probe ---


class Probe:
    """The probe, asked as the supervisor asks it."""

    def __init__(self) -> None:
        began_s = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-P", "-m", MODULE, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._serial = 0
        self._line()
        self.start_s = time.monotonic() - began_s

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> Answer:
        assert self._process.stdout is not None
        return answer_in(self._process.stdout.readline())

    def _ask(self, card: Card | None) -> Answer:
        assert self._process.stdin is not None
        self._serial += 1
        self._process.stdin.write(encode(Question(serial=self._serial, card=card.uuid if card else "", place=card.place if card else -1)))
        self._process.stdin.flush()
        while (answer := self._line()).serial != self._serial:
            if answer.xid is not None:
                print(f"Xid {answer.xid.code} was reported of {answer.xid.card}", file=sys.stderr)
        return answer

    def cards(self) -> tuple[Card, ...]:
        """Return the cards, or end the run where there is none."""
        answer = self._ask(None)
        if answer.trouble is not None:
            print(f"no card to show anything on: {answer.trouble.what}; {answer.trouble.hint}", file=sys.stderr)
            sys.exit(NO_CARD)
        return answer.cards or ()

    def read(self, card: Card) -> Reading:
        """Return a reading."""
        answer = self._ask(card)
        if answer.reading is None:
            raise SystemExit(f"{card.uuid} cannot be read: {answer.trouble}")
        return answer.reading


def readings(probe: Probe, card: Card) -> Iterator[Row]:
    """Yield what a reading costs."""
    began_s = time.monotonic()
    probe.read(card)
    first_s = time.monotonic() - began_s
    took_s = []
    for _ in range(_READINGS):
        began_s = time.monotonic()
        probe.read(card)
        took_s.append(time.monotonic() - began_s)
    yield "the probe's start", f"{probe.start_s:.2f} s"
    yield "the driver's first reading (1 to 3 s without nvidia-persistenced)", f"{first_s:.3f} s"
    yield "each reading after", f"{_spread(took_s)}, of {_READINGS}"


def attribution(probe: Probe, card: Card, command: Sequence[str], size_bytes: int) -> Iterator[Row]:
    """Yield whether a program of ours is found by its pid, and with its size."""
    before = probe.read(card)
    holder = Holder(command, card.uuid)
    during = probe.read(card)
    holder.kill()
    more_bytes = during.used_bytes - before.used_bytes
    yield "a context beside what was asked for", f"{format_size(max(0, more_bytes - size_bytes))} ({format_size(more_bytes)} more in use)"
    if during.users is None:
        yield "whose memory it is", "the driver lists no processes: totals only"
        return
    mine = [user for user in during.users if user.pid == holder.process.pid]
    others = [user.pid for user in during.users if user.pid != holder.process.pid]
    size = "without a size" if not mine or mine[0].used_bytes is None else f"with {format_size(mine[0].used_bytes)}"
    yield (
        "our own program is found by its pid",
        f"yes, {size}" if mine else f"NO: listed are {others or 'none'} (a container? the driver counts in another namespace)",
    )
    yield "the card's node", f"/dev/nvidia{during.minor}" if during.minor is not None else "not told"


def releases(probe: Probe, card: Card, command: Sequence[str], rounds: int) -> Iterator[Row]:
    """Yield how long after a SIGKILL the memory is back, and the process is listed no more."""
    base_bytes = probe.read(card).used_bytes
    back_s, unlisted_s = [], []
    for _ in range(rounds):
        holder = Holder(command, card.uuid)
        gone_s = holder.kill()
        back_at = unlisted_at = 0.0
        while not (back_at and unlisted_at):
            seen, now_s = probe.read(card), time.monotonic()
            if seen.used_bytes <= base_bytes + _SLACK_BYTES:
                back_at = back_at or now_s
            if not any(user.pid == holder.process.pid for user in seen.users or ()):
                unlisted_at = unlisted_at or now_s
            if now_s > gone_s + _WITHIN_S:
                yield "memory after a SIGKILL", f"NOT BACK within {_WITHIN_S:g} s: {format_size(seen.used_bytes)} in use, {format_size(base_bytes)} before"
                return
            time.sleep(_LOOK_S)
        back_s.append(back_at - gone_s)
        unlisted_s.append(unlisted_at - gone_s)
    for what, took_s in (("memory is back", back_s), ("listed no more", unlisted_s)):
        yield f"{what}, after the exit of a killed program", f"{_spread(took_s)}, of {rounds}"


# --- a supervisor of our own ---


@contextmanager
def supervised(command: Sequence[str], size: str) -> Iterator[Path]:
    """Run a supervisor whose one worker is such a program, and yield its state folder; everything of it is ended."""
    text = f"""schema_version = 1
[supervisor]
state_dir = "state"
[api]
bind = "off"
[gpu]
backend = "nvml"
[workers.holder]
command = {json.dumps(list(command))}
gpu = "{size}"
progress = "none"
"""
    with tempfile.TemporaryDirectory(prefix="warden-card-") as folder:
        (Path(folder) / "supervisor.toml").write_text(text)
        with (Path(folder) / "out").open("w") as out, subprocess.Popen([WARDEN, "run"], cwd=folder, stdout=out, stderr=out) as process:
            try:
                yield Path(folder) / "state"
            finally:
                process.terminate()
                process.wait(_WITHIN_S)


def until(true: Callable[[], bool], what: str) -> None:
    """Return once it is true."""
    end_s = time.monotonic() + _WITHIN_S
    while not true():
        if time.monotonic() > end_s:
            raise SystemExit(f"not within {_WITHIN_S:g} s: {what}")
        time.sleep(_LOOK_S)


def handovers(probe: Probe, card: Card, command: Sequence[str], size: str, rounds: int) -> Iterator[Row]:
    """Yield how long a proved hand-over takes from a worker to a program outside and back, and after a SIGKILL of that program."""
    full_bytes = probe.read(card).used_bytes + parse_size(size)
    with supervised(command, size) as state_dir:
        until((state_dir / "control.sock").exists, "the supervisor answers")
        with Client(lambda: endpoint_of(state_dir)) as client:

            def device() -> dict[str, Any]:
                return next((one for one in client.ask("status")["devices"] if one["id"] == card.uuid), {"holders": []})

            def worker_has_it() -> bool:
                holders = [one["owner"] for one in device()["holders"] if one["state"] == "held"]
                return holders == ["holder-0"] and probe.read(card).used_bytes >= full_bytes

            until(worker_has_it, "the worker holds the card")
            asked_s, steps = [], []
            for _ in range(rounds):
                began_s = time.monotonic()
                with Gpu(state_dir).lease(need=size, device=card.uuid, owner="real_card"):
                    asked_s.append(time.monotonic() - began_s)
                    steps.append(device()["last_handover"])
                until(worker_has_it, "the worker is back")
            for name, what in (("gone_s", "its processes are gone"), ("back_s", "its memory is back"), ("proof_s", "proved and granted")):
                yield f"a hand-over from a worker: {what}", f"{_spread([step[name] for step in steps])} after the order"
            yield "the same, as the program that asked sees it", f"{_spread(asked_s)}, of {rounds}"

            run: list[str | Path] = [
                WARDEN,
                "--config",
                state_dir.parent / "supervisor.toml",
                "gpu",
                "run",
                "--need",
                size,
                "--device",
                card.uuid,
                "--",
                *command,
            ]
            with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as program:
                assert program.stdout is not None
                program.stdout.readline()
                (pid,) = [one["pid"] for one in device()["holders"]]
                os.kill(pid, signal.SIGKILL)
                began_s = time.monotonic()
                until(worker_has_it, "the worker is back after a SIGKILL")
                yield "kill -9 of a program under a lease: the worker has its memory again", f"{time.monotonic() - began_s:.2f} s"

            took_s = []
            for _ in range(_READINGS):
                began_s = time.monotonic()
                client.ask("status")
                took_s.append(time.monotonic() - began_s)
            yield "a status by the control socket", f"{_spread(took_s)}, of {_READINGS}"


def _spread(took_s: Sequence[float]) -> str:
    return f"median {statistics.median(took_s):.3f} s, at most {max(took_s):.3f} s"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="2GiB", help="of what each program holds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--holder",
        nargs=argparse.REMAINDER,
        metavar="WORD",
        help="last: another program that holds memory: it prints a line once it does, and stays until killed",
    )
    parser.add_argument("--hold", type=int, metavar="BYTES", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold is not None:
        hold(given.hold)
        return
    size_bytes = parse_size(given.size)
    command = given.holder or [sys.executable, str(Path(__file__).absolute()), "--hold", str(size_bytes)]
    probe = Probe()
    try:
        cards = probe.cards()
        if not given.holder:
            cuda_library()
        for card in cards:
            before = probe.read(card)
            in_use = f"{format_size(before.used_bytes)} in use before, by {len(before.users or ())} that are listed"
            print(f"\n{card.name}  {card.uuid}  {format_size(card.total_bytes)}, {in_use}")
            for rows in (
                readings(probe, card),
                attribution(probe, card, command, size_bytes),
                releases(probe, card, command, given.rounds),
                handovers(probe, card, command, given.size, given.rounds),
            ):
                for what, found in rows:
                    print(f"  {what:<75} {found}", flush=True)
    finally:
        probe.close()
    print("\nFaults (Xid) are not provoked: after `dmesg | grep -i xid` shows one, `warden gpu status` must name and count it.")


if __name__ == "__main__":
    main()
