"""The processes of programs outside Warden: proved by pid, start ticks and boot, and their end noticed by pidfd, at once."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from supervisor.adapters import proc
from supervisor.core.model import Outside
from supervisor.runtime.peers import Peer

_AGAIN_S: Final = 1.0


class Owners:
    """Watches processes that are not ours. Needs a running loop for `watch`."""

    def __init__(self) -> None:
        """Watch nobody yet."""
        self._boot_id = proc.boot_id()
        self._descriptors: dict[str, int] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}

    async def look(self, pid: int) -> Peer | None:
        """Return who lives under this pid, with its ancestors; None where nobody does."""
        return await asyncio.to_thread(self._look, pid)

    def _look(self, pid: int) -> Peer | None:
        seen = proc.look(pid)
        if seen is None or seen.state in "ZX":
            return None
        return Peer(pid=pid, start_ticks=seen.start_ticks, boot_id=self._boot_id, kin=(pid, *proc.ancestors(pid)), name=seen.name)

    def watch(self, name: str, who: Outside | Peer, gone: Callable[[], None]) -> None:
        """Call gone once this process is no more, in a moment where it is none now. name: what the watch is called; an earlier one of that name ends."""
        self.forget(name)
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(who.pid)
        except ProcessLookupError:
            loop.call_soon(gone)
            return
        except OSError:  # no descriptor is left just now: that says nothing of the process
            self._later[name] = loop.call_later(_AGAIN_S, self.watch, name, who, gone)
            return
        seen = proc.look(who.pid)
        if who.boot_id != self._boot_id or seen is None or seen.start_ticks != who.start_ticks:
            os.close(descriptor)  # the pid is another's by now
            loop.call_soon(gone)
            return
        self._descriptors[name] = descriptor
        loop.add_reader(descriptor, self._ended, name, gone)

    def forget(self, name: str) -> None:
        """Watch it no more."""
        if (later := self._later.pop(name, None)) is not None:
            later.cancel()
        if (descriptor := self._descriptors.pop(name, None)) is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Watch nobody any more."""
        for name in (*self._descriptors, *self._later):
            self.forget(name)

    def _ended(self, name: str, gone: Callable[[], None]) -> None:
        self.forget(name)
        gone()
