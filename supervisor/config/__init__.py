"""The room that reads supervisor.toml: strict, with every problem at once and the line of each.

`find` says where the file is, `load` makes it into the frozen limits of `core/limits.py`, `fill` fills in a worker's placeholders. `folders` alone is
lenient: it says where state and logs lie, also for a file that is broken. `missing` looks whether what is named is on this machine; `inspect` gives what
holds beside what is wrong; `spelled` writes limits as the file writes them.
"""

from supervisor.config.effective import Loaded, in_order, inspect, load
from supervisor.config.folders import Folders, folders
from supervisor.config.placeholders import PLACEHOLDERS, fill
from supervisor.config.places import find
from supervisor.config.programs import missing
from supervisor.config.spelled import spelled

__all__ = ["PLACEHOLDERS", "Folders", "Loaded", "fill", "find", "folders", "in_order", "inspect", "load", "missing", "spelled"]
