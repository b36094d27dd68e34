"""The room that reads supervisor.toml: strict, with every problem at once and the line of each.

`find` says where the file is, `load` makes it into the frozen limits of `core/limits.py`, `fill` fills in a worker's placeholders. `folders` alone is
lenient: it says where state and logs lie, also for a file that is broken.
`missing_programs` and `missing_files` look whether what is named is on this machine; `spelled` writes limits as the file writes them.
"""

from supervisor.config.effective import Loaded, load
from supervisor.config.folders import Folders, folders
from supervisor.config.keys import LATER
from supervisor.config.placeholders import PLACEHOLDERS, fill
from supervisor.config.places import find
from supervisor.config.programs import missing_files, missing_programs
from supervisor.config.spelled import spelled

__all__ = ["LATER", "PLACEHOLDERS", "Folders", "Loaded", "fill", "find", "folders", "load", "missing_files", "missing_programs", "spelled"]
