"""The configuration while it runs: the file is looked at, read whole, checked whole and taken whole, or not at all."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from supervisor.adapters.config_watch import ConfigWatch
from supervisor.config import Loaded, load
from supervisor.config.changes import Change, changes, clashes, without_restart
from supervisor.core.announcements import LEVELS
from supervisor.core.limits import JSONValue, Limits
from supervisor.errors import ConfigError
from supervisor.runtime.api_child import with_api
from supervisor.runtime.loop import Loop

_LOOK_S: Final = 1.0

Say = Callable[[str, str, Mapping[str, JSONValue]], None]


class Settings:
    """What is in force, and how it becomes something else. generation counts the files that were taken; error says what is wrong with the last one."""

    def __init__(self, loaded: Loaded, environ: Mapping[str, str], *, loop: Loop, say: Say, take: Callable[[Limits], None]) -> None:
        """Begin with the file as it was loaded. take(limits) is for whoever keeps a setting outside the loop."""
        self.generation = 1
        self.error = ""
        self._path = loaded.path
        self._environ = environ
        self._in_force = loaded.limits
        self._loop = loop
        self._say = say
        self._take = take
        self._watch = ConfigWatch(loaded.path, loaded.digest)

    async def watch(self) -> None:
        """Look at the file each second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._watch.edited():
                self.reload()

    def diff(self) -> tuple[list[str], list[str]]:
        """Return what a reload would change, and what is wrong with the file."""
        found, wrong = self._read()
        return [str(change) for change in found[1]] if found else [], wrong

    def reload(self) -> tuple[list[str], list[str]]:
        """Take the file as it is now, unless something is wrong with it. Returns what changed, and what is wrong."""
        found, wrong = self._read()
        if found is None:
            self.error = wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
            self._say(LEVELS["config_refused"], "config_refused", {"reason": self.error, "problems": len(wrong)})
            return [], wrong
        limits, changed = found
        mended, self.error = bool(self.error), ""
        if mended and not changed:
            self._say(LEVELS["config_reloaded"], "config_reloaded", {"generation": self.generation, "reason": "the file holds again, and is as it was before"})
        lines = tuple(str(change) for change in changed)
        if changed:
            self.generation += 1
            self._in_force = without_restart(self._in_force, limits)
            self._take(self._in_force)
            self._loop.change_limits(with_api(self._in_force), generation=self.generation, changed=lines)
        return list(lines), []

    def _read(self) -> tuple[tuple[Limits, list[Change]] | None, list[str]]:
        try:
            limits = load(self._path, self._environ).limits
        except ConfigError as error:
            return None, [str(problem) for problem in error.problems]
        if wrong := clashes(without_restart(self._in_force, limits), self._path.name):
            return None, wrong
        return (limits, changes(self._in_force, limits)), []
