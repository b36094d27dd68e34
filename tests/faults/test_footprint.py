"""What a running supervisor loads, holds and costs: nothing heavy, nothing leaked, its loop never held."""

import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.live import ONE_WORKER, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

TICKS = 8
NEVER = ("torch", "ultralytics", "cv2", "numpy", "fastapi", "pydantic", "pynvml", "libnvidia-ml", "libcuda")


def descriptors(pid: int) -> list[str]:
    """Return what the open descriptors of a process lead to."""
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.append(str(path.readlink()))
    return sorted(found)


def kinds(pid: int) -> dict[str, int]:
    """Return how many descriptors of each kind a process has, without their numbers."""
    found: dict[str, int] = {}
    for target in descriptors(pid):
        kind = target.split(":[", maxsplit=1)[0]
        found[kind] = found.get(kind, 0) + 1
    return found


def test_a_supervisor_that_did_its_work_has_mapped_no_model_library(live: MakeLive) -> None:
    warden = live(ONE_WORKER + 'gpu = "1GiB"\n')
    warden.wait_for_job(warden.submit(steps=2))
    warden.status()

    mapped = {line.split()[-1] for line in Path(f"/proc/{warden.pid}/maps").read_text().splitlines() if ".so" in line or ".py" in line}

    assert mapped
    assert not [path for path in mapped if any(word in path.rpartition("site-packages")[2].lower() for word in NEVER)]


def test_a_worker_inherits_no_descriptor_of_the_supervisor(live: MakeLive) -> None:
    warden = live('[workers.tool]\ncommand = ["sleep", "3600"]\nprogress = "none"\n')
    pid = warden.wait_for_event("worker_spawned", worker="tool-0")["pid"]

    log = str(warden.log_dir / "workers" / "tool-0.log")
    assert warden.holds(lambda: descriptors(pid) == sorted(["/dev/null", log, log])), descriptors(pid)  # the loader opens its libraries for a moment


def test_a_worker_starts_with_ordinary_signals(live: MakeLive) -> None:
    warden = live('[workers.tool]\ncommand = ["sleep", "3600"]\nprogress = "none"\n')
    pid = warden.wait_for_event("worker_spawned", worker="tool-0")["pid"]

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Sig"))

    assert int(status["SigBlk"], 16) == 0
    ordinary = (1 << 31) - 1  # 32 and 33 are the C library's own, which it sets to ignore in whatever it spawns
    assert int(status["SigIgn"], 16) & ordinary == 0, "SIGPIPE and SIGHUP above all"


def test_fifty_spawns_leave_no_descriptor_and_no_zombie_behind(live: MakeLive) -> None:
    toml = '[watchdog]\nbackoff_first = "1ms"\nbackoff_max = "1ms"\nquarantine_after = 1000\n[workers.tool]\ncommand = ["true"]\nprogress = "none"\n'
    warden = live(toml)
    warden.wait_for_event("worker_spawned", worker="tool-0", generation=5)

    def level() -> dict[str, int]:
        return kinds(warden.pid)

    before = [level() for _ in range(50)]
    most = {kind: max(one.get(kind, 0) for one in before) for one in before for kind in one}
    warden.wait_for_event("worker_spawned", worker="tool-0", generation=60, within_s=120.0)

    assert warden.holds(lambda: all(count <= most.get(kind, 0) for kind, count in level().items())), (most, level())
    run = warden.state_dir / "run"
    assert warden.holds(lambda: len(list(run.iterdir())) <= 2), list(run.iterdir())  # a third is a record that is being written


def test_many_clients_leave_no_descriptor_behind(live: MakeLive) -> None:
    warden = live("")
    warden.status()
    before = len(descriptors(warden.pid))

    for _ in range(60):
        warden.status()

    assert warden.holds(lambda: len(descriptors(warden.pid)) <= before + 2), descriptors(warden.pid)


def test_ordinary_work_does_not_hold_the_loop(live: MakeLive) -> None:
    warden = live(ONE_WORKER + 'gpu = "1GiB"\n[jobs]\nmax_queued = 5000\n')
    for _ in range(300):
        warden.submit(steps=1, step_s=0.0)
    lags: list[float] = []

    def ticked() -> bool:
        """Let it work on, and look how late its last tick was: one of a second."""
        warden.ask("jobs.list", limit=10_000)
        lag = warden.status().supervisor.loop_lag_ms
        if lag not in lags[-1:]:
            lags.append(lag)
        return len(lags) >= TICKS

    assert warden.holds(ticked, within_s=10.0 * TICKS), lags

    assert sorted(lags)[TICKS // 2] < 20, f"a loop that is held is late at most of its ticks, a busy machine makes it late at some: {lags}"


def test_the_supervisor_stays_small(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_job(warden.submit(steps=5))

    pss = warden.status().supervisor.pss_bytes

    assert pss is not None
    assert pss < 80 * 2**20, "40 MiB is the aim; tests/bench measures it on a quiet machine"


def test_a_loop_that_is_posted_to_from_everywhere_misses_no_message(live: MakeLive) -> None:
    warden = live(ONE_WORKER + "concurrency = 2\n[jobs]\nmax_running = 2\nmax_queued = 500\n")

    names = [warden.submit(steps=1, step_s=0.0) for _ in range(150)]

    for name in names:
        assert warden.wait_for_job(name).status == "completed"
    assert warden.status().supervisor.dropped_messages == 0


def test_hangup_of_the_terminal_harms_nobody(live: MakeLive) -> None:
    warden = live()

    warden.signal(signal.SIGHUP)

    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"
