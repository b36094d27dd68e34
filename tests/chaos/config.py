"""The configuration under chaos: a few knobs, the file they make, and the ways in which people save files, whole and broken."""

import os
from pathlib import Path
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

WORKER: Final = 'command = ["{python}", "-P", "-m", "tests.chaos.worker"]'


class Knobs(Struct, frozen=True, kw_only=True):
    """What edits change."""

    silent_after_s: int = 5
    stall_after_s: int = 6
    stop_grace_s: int = 4
    recycle_after_s: int = 3600
    replicas: int = 2
    pool: int = 3
    mark: int = 0  # in a worker's environment: nothing but a reason for a fresh process
    gamma: bool = True  # whether that worker is there at all
    gamma_gpu: bool = True
    max_running: int = 5


def text(knobs: Knobs) -> str:
    """Return supervisor.toml. Three workers take turns on one device, two need none, one is a program that does not know Warden."""
    gamma = f"""
[workers.gamma]
{WORKER}
serves = ["chaos.gamma"]
gpu = "{"10GiB" if knobs.gamma_gpu else "0"}"
priority = 15
resident = false
"""
    return f"""schema_version = 1

[supervisor]
state_dir = "var"
shutdown_grace = "30s"

[api]
bind = "off"

[watchdog]
start_timeout = "60s"
silent_after = "{knobs.silent_after_s}s"
stall_after = "{knobs.stall_after_s}s"
stop_grace = "{knobs.stop_grace_s}s"
recycle_after = "{knobs.recycle_after_s}s"
recycle_wait = "5s"
backoff_first = "100ms"
backoff_max = "2s"
healthy_after = "5s"

[memory]
look_every = "2s"
warn_below = "0"
emergency_below = "0"
hard_floor = "0"

[gpu]
backend = "host"

[jobs]
max_running = {knobs.max_running}
max_queued = 200
age_step = "5s"
retries = {{ crash = 4, lost = 6, memory = 1, stall = 0, user_error = 0 }}

[workers.alpha]
{WORKER}
serves = ["chaos.alpha"]
gpu = "10GiB"
options = {{ children = 3 }}
env = {{ MARK = "{knobs.mark}" }}

[workers.beta]
{WORKER}
serves = ["chaos.beta"]
gpu = "9GiB"
priority = 15
resident = false
{gamma if knobs.gamma else ""}
[workers.plain]
{WORKER}
serves = ["chaos.plain"]
replicas = {knobs.replicas}

[workers.pool]
{WORKER}
serves = ["chaos.pool"]
concurrency = {knobs.pool}

[workers.tool]
command = ["sh", "-c", "sleep 3600 & setsid sleep 3600 & (sleep 3600 & sleep 3600) & (env -i setsid sleep 3600 & wait) & wait"]
progress = "none"
"""


def turned(knobs: Knobs, which: float, how: float) -> Knobs:
    """Return the knobs with one of them turned. which, how: 0 to 1, drawn beforehand."""
    change = (
        lambda: replace(knobs, silent_after_s=4 + int(4 * how)),
        lambda: replace(knobs, stall_after_s=5 + int(5 * how)),
        lambda: replace(knobs, stop_grace_s=3 + int(4 * how)),
        lambda: replace(knobs, recycle_after_s=8 + int(10 * how) if how < 0.5 else 3600),  # as often short as long
        lambda: replace(knobs, replicas=1 + int(3 * how)),
        lambda: replace(knobs, pool=1 + int(4 * how)),
        lambda: replace(knobs, mark=knobs.mark + 1),
        lambda: replace(knobs, gamma=not knobs.gamma),
        lambda: replace(knobs, gamma_gpu=not knobs.gamma_gpu),
        lambda: replace(knobs, max_running=2 + int(5 * how)),
    )
    return change[int(which * len(change))]()


def save(path: Path, content: str, how: float) -> None:
    """Write the file as editors do: by rename, in place, or in place in two halves."""
    if how < 1 / 3:
        partial = path.with_suffix(".swp")
        partial.write_text(content)
        partial.replace(path)
    elif how < 2 / 3:
        path.write_text(content)
    else:
        with path.open("r+") as file:
            file.truncate()
            file.write(content[: len(content) // 2])
            file.flush()
            os.fsync(file.fileno())
            file.write(content[len(content) // 2 :])


def broken(content: str, how: float) -> str:
    """Return the file with a mistake in it, which must change nothing."""
    ways = [
        content[: len(content) // 2] + "\n[",
        "",
        content.replace("[gpu]", "[gup]"),
        content.replace('stall_after = "', 'stall_after = "minus '),
        content.replace("max_running = ", "max_running = -"),
        content.replace("schema_version = 1", "schema_version = 77"),
        "\0\0\0" + content,
        content + '\n[workers.bad]\ncommand = "not a list"\n',
    ]
    return ways[int(how * len(ways))]
