"""Memory that runs out, slowly: a worker over its limits is recycled or restarted and says why, and nobody else is harmed."""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

import pytest

from supervisor.adapters.headroom import Headroom
from tests.support.live import ONE_WORKER, WITHIN_S, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

ONCE = "[jobs]\nretries = { crash = 0, memory = 0 }\n"
PRETENDED = {"WARDEN_PRETEND_MEMORY": "4GiB"}


def limited(live: MakeLive, *, toml: str = ONE_WORKER, **memory: str) -> Live:
    """Return a supervisor, not started, with these keys in its [memory]; no other line or limit acts."""
    return live(ONCE + toml, start=False, memory={"look_every": "500ms", **memory})


def needs_memory(gib: int) -> None:
    """Skip where the machine itself could run short of the memory that the test takes: what is pretended is the line, not the hog."""
    with closing(Headroom()) as headroom:
        available = headroom.read().available_bytes
    if available < gib * 2**30:
        pytest.skip(f"takes up to {gib} GiB of the machine's memory, which has {available / 2**30:.1f} available")


def edit(warden: Live, old: str, new: str) -> None:
    """Write its file anew, in one step as an editor does."""
    config = warden.folder / "supervisor.toml"
    text = config.read_text()
    assert old in text
    partial = config.with_suffix(".partial")
    partial.write_text(text.replace(old, new))
    partial.replace(config)


def log_of(warden: Live) -> str:
    """Return what people read."""
    return (warden.log_dir / "watchdog.log").read_text()


def test_a_worker_over_its_limit_is_restarted_and_its_job_says_why(live: MakeLive) -> None:
    warden = limited(live, worker_soft="200MiB", worker_limit="250MiB").start()
    name = warden.submit(steps=2000, fault="memory", size_mb=400)

    job = warden.wait_for_job(name)
    over = warden.told("memory_limit", worker="sam-0")[0]
    warden.wait_for_event("worker_ready", after=warden.events.index(over), worker="sam-0")

    assert (job.status, job.reason) == ("failed", "memory_limit")
    assert "over worker_limit, 250MiB, at 3 looks in a row" in job.message
    assert over["mem_bytes"] > 400 * 2**20
    assert over["worker_limit_bytes"] == 250 * 2**20
    assert warden.worker("sam-0").restarts == {"memory": 1}
    again = warden.wait_for_job(warden.submit(steps=1))
    assert again.status == "completed"


def test_a_slow_leak_is_recycled_at_a_boundary_before_the_limit_and_no_work_is_lost(live: MakeLive) -> None:
    warden = limited(live, worker_soft="200MiB", worker_limit="3GiB").start()
    name = warden.submit(steps=60, step_s=0.1, fault="leak", size_mb=10, checkpoint=True)

    job = warden.wait_for_job(name, within_s=3 * WITHIN_S)

    assert job.status == "completed"
    assert job.result["counted"] == 60
    assert job.attempt >= 2, "it went on in a fresh process"
    assert not warden.seen("memory_limit")
    assert not warden.seen("worker_killed")
    soft = warden.told("memory_soft_limit", worker="sam-0")[0]
    assert "over worker_soft, 200MiB, at 3 looks in a row" in soft["reason"]


def test_the_log_tells_of_a_slow_leak_from_the_first_line_to_the_fresh_process(live: MakeLive) -> None:
    warden = limited(live, worker_soft="200MiB", worker_limit="3GiB").start(env={"WARDEN_SUPERVISOR__HEALTH_EVERY": "1s"})
    name = warden.submit(steps=600, step_s=0.1, fault="leak", size_mb=4, checkpoint=True)
    soft = warden.wait_for_event("memory_soft_limit", worker="sam-0")
    warden.wait_for_event("worker_ready", after=warden.events.index(soft), worker="sam-0")
    warden.ask("jobs.cancel", job=name)

    stamp = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
    lines = (
        r" info +worker_healthy +worker=sam-0 .*pid=\d+ age=[\d.]+s/3600s mem=\d+MiB/3GiB beat=[\d.]+s progress=[\d.]+s recycle_in=\d+s",
        r" warning +memory_soft_limit +worker=sam-0 .*mem=\d+MiB worker_soft=200MiB",
        r" info +worker_draining +worker=sam-0 .*over worker_soft, 200MiB",
        r" info +worker_recycled +worker=sam-0 .*over worker_soft, 200MiB",
        r" info +worker_ready +worker=sam-0 ",
    )
    story = re.compile(r"(?s:.*)".join(stamp + words for words in lines), re.MULTILINE)

    assert warden.holds(lambda: story.search(log_of(warden)) is not None), log_of(warden)


def test_four_readers_of_the_same_memory_are_not_counted_four_times(live: MakeLive) -> None:
    needs_memory(3)
    warden = limited(live, worker_limit="2GiB").start()
    name = warden.submit(steps=160, step_s=0.05, fault="readers", size_mb=1024)
    folder = Path(warden.wait_for_job(name, "running").dir)
    assert warden.holds((folder / "readers").exists)
    readers = [int(pid) for pid in (folder / "readers").read_text().split()]
    resident = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in readers)
    assert resident > 4 * 2**30, "by RSS they are over the limit twice"

    seen: list[int] = []
    while warden.job(name).status == "running":
        seen += [used for used in [warden.worker("sam-0").memory_bytes] if used]
    job = warden.job(name)

    assert job.status == "completed"
    assert not warden.seen("memory_limit")
    assert 2**30 < max(seen) < 1.5 * 2**30
    warden.cli("workers", "restart", "sam-0")
    assert warden.holds(lambda: not any(alive(pid) for pid in readers))


def test_an_edited_limit_counts_within_two_seconds(live: MakeLive) -> None:
    warden = limited(live, worker_limit="3GiB").start()
    took_s = []

    for before, after in itertools.pairwise(["3GiB", "4GiB", "5GiB", "6GiB", "7GiB"]):
        seen = len(warden.events)
        edit(warden, f'"{before}"', f'"{after}"')
        edited_at_s = (warden.folder / "supervisor.toml").stat().st_mtime
        taken = warden.wait_for_event("config_reloaded", after=seen)
        took_s.append(datetime.fromisoformat(taken["timestamp"]).timestamp() - edited_at_s)
        assert "memory.worker_limit" in taken["reason"]
        assert warden.worker("sam-0").memory_limit_bytes == int(after[0]) * 2**30

    assert min(took_s) < 2, "a slow machine delays some, not all"


def test_a_limit_is_edited_while_it_runs_and_a_lowered_one_gets_a_full_window(live: MakeLive) -> None:
    warden = limited(live, worker_limit="3GiB").start()
    name = warden.submit(steps=4000, step_s=0.05, fault="memory", size_mb=400)
    assert warden.holds(lambda: (warden.worker("sam-0").memory_bytes or 0) > 400 * 2**20)

    edit(warden, '"3GiB"', '"300MiB"')
    taken = warden.wait_for_event("config_reloaded")
    shown = warden.worker("sam-0").memory_limit_bytes
    over = warden.wait_for_event("memory_limit", worker="sam-0")

    assert shown == 300 * 2**20
    assert warden.job(name).reason in {"", "memory_limit"}
    assert apart_s(taken, over) >= 3 * 0.5 - 0.05, "three whole looks"


def apart_s(first: dict[str, str], second: dict[str, str]) -> float:
    """Return how long after the first event the second came."""
    return (datetime.fromisoformat(second["timestamp"]) - datetime.fromisoformat(first["timestamp"])).total_seconds()


def test_a_limit_under_what_a_fresh_worker_uses_is_an_alarm_and_no_loop(live: MakeLive) -> None:
    warden = limited(live, worker_limit="100MiB", toml=ONE_WORKER + "options = { load_mb = 200 }\n").start()

    said = warden.wait_for_event("memory_limit_helpless", worker="sam-0")
    job = warden.wait_for_job(warden.submit(steps=40))

    assert "raise memory.worker_limit" in said["reason"]
    assert job.status == "completed"
    assert not warden.seen("memory_limit")
    assert len(warden.seen("memory_limit_helpless")) == 1
    assert any("by being there at all" in sentence for sentence in warden.status().unwell)


def test_memory_that_runs_low_is_said_as_it_passes_each_line(live: MakeLive) -> None:
    needs_memory(3)
    warden = limited(live, warn_below="3GiB").start(env=PRETENDED)
    warden.wait_for_event("memory_pretended")
    assert warden.holds(lambda: warden.status().memory.zone == "ok")
    name = warden.submit(steps=4000, step_s=0.05, fault="memory", size_mb=1300)

    low = warden.wait_for_event("memory_low")
    zone = warden.status().memory.zone
    screen = warden.cli("status").stdout
    warden.ask("jobs.cancel", job=name)
    warden.wait_for_event("memory_enough")

    assert low["available_bytes"] < 3 * 2**30 == low["warn_below_bytes"]
    assert zone == "warn"
    assert "warn: warn_below is 3GiB" in screen
    assert warden.holds(lambda: "memory_low" in log_of(warden))
    line = next(line for line in log_of(warden).splitlines() if "memory_low" in line)
    assert " warn_below=3GiB" in line


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory cgroup of version 1 with a limit of 150 MiB, where one can be made."""
    own = next((line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
    folder = Path("/sys/fs/cgroup/memory") / (own or "").lstrip("/") / f"warden-test-{os.getpid()}"
    try:
        if own is None:
            pytest.skip("the memory controller is not one of version 1")
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(150 * 2**20))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield folder
    with suppress(OSError):
        folder.rmdir()
    assert not folder.exists()


def test_a_worker_that_the_kernel_ended_for_lack_of_memory_is_told_so(small_group: Path, live: MakeLive) -> None:
    # No line acts: the supervisor would count what the group has left, and be faster than the kernel.
    warden = limited(live, toml=ONE_WORKER + "resident = false\n").start()
    (small_group / "cgroup.procs").write_text(str(warden.pid))  # its workers are born there; the kernel takes one of them first

    job = warden.wait_for_job(warden.submit(steps=2000, fault="memory", size_mb=400))

    assert (job.status, job.reason) == ("failed", "oom_kernel")
    assert "killed by the kernel for lack of memory" in job.message
    assert "killed by the kernel" in warden.told("worker_exited", worker="sam-0")[0]["reason"]


def test_a_worker_that_somebody_killed_was_not_ended_by_the_kernel(live: MakeLive) -> None:
    warden = limited(live).start()

    job = warden.wait_for_job(warden.submit(steps=2000, fault="crash"))

    assert (job.status, job.reason) == ("failed", "worker_crash")
