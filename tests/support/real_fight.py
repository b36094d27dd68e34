"""Clients that fight for the device of a real supervisor over its control socket, and what each of them waited."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from supervisor.control import Client
from supervisor.shapes import LockView

_WITHIN_S: Final = 100.0


@dataclass
class RealFight:
    """What was measured, in seconds. hand_over_s, hold_s: the longest, from when the device was given back or asked for until the grant, and from there."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    hand_over_s: float = 0.0
    hold_s: float = 0.0
    overlaps: int = 0  # grants while somebody else had not given the device back
    fences: list[int] = field(default_factory=list)


def real_fight(endpoint: Callable[[], str], priorities: Mapping[str, int], *, hold_s: float, for_s: float) -> RealFight:
    """Let a client of each priority take the device, hold it, give it back and ask again, for so long. Raises what the first of them raised."""
    found, lock, begun_s = RealFight({name: [] for name in priorities}), threading.Lock(), time.monotonic()
    free_since_s, having = [begun_s], [0]
    errors: list[BaseException] = []
    over = threading.Event()

    def turns(name: str, priority: int) -> None:
        with Client(endpoint) as client:
            while time.monotonic() < begun_s + for_s and not over.is_set():
                asked_s = time.monotonic()
                view = msgspec.convert(_ask(client, "gpu.lock", owner=name, priority=priority, ttl_s=60.0, timeout_s=_WITHIN_S), LockView)
                now_s = time.monotonic()
                assert view.granted, view.message
                with lock:
                    found.overlaps += having[0]
                    having[0] += 1
                    found.waits[name].append(now_s - asked_s)
                    found.fences.append(view.fence or 0)
                    found.hand_over_s = max(found.hand_over_s, now_s - max(asked_s, free_since_s[0]))
                over.wait(hold_s)
                with lock:
                    having[0] -= 1
                    free_since_s[0] = time.monotonic()
                    found.hold_s = max(found.hold_s, free_since_s[0] - now_s)
                _ask(client, "gpu.unlock", lease=view.lease, fence=view.fence)

    def guarded(name: str, priority: int) -> None:
        try:
            turns(name, priority)
        except BaseException as error:  # noqa: BLE001  # raised again where somebody hears it
            errors.append(error)
            over.set()

    clients = [threading.Thread(target=guarded, args=pair) for pair in priorities.items()]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if errors:
        raise errors[0]
    return found


def _ask(client: Client, op: str, **args: Any) -> Any:
    return client.ask(op, args, timeout_s=_WITHIN_S + 10.0)
