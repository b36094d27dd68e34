"""A process that fills memory as fast as the machine can, against the whole of Warden: it is gone before nothing is left, and all else goes on."""

import re
from pathlib import Path

import msgspec
import pytest

from supervisor.adapters import proc
from supervisor.shapes import WhyView
from tests.bench._hog import entries
from tests.faults.test_memory import PRETENDED, limited, needs_memory
from tests.support.live import FAKE, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
MIB = 2**20
TOTAL = 4096 * MIB
TWO = f"""
[workers.hog]
command = ["{{python}}", "-P", "-m", "tests.bench._hog"]
serves = ["bench.hog"]
[workers.other]
{FAKE}
serves = ["demo.count"]
"""
LINES = {"warn_below": "3GiB", "emergency_below": "2049MiB", "hard_floor": "1023MiB"}
"""As on a machine that is large enough for the defaults: those themselves would shrink with the 4 GiB that are pretended."""


def test_a_hog_is_gone_before_nothing_is_left_and_all_else_goes_on(live: MakeLive, tmp_path: Path) -> None:
    needs_memory(7)
    warden = limited(live, toml=TWO, **LINES).start(env={**PRETENDED, "PYTHONPATH": str(ROOT)})
    for name in ("hog-0", "other-0"):
        warden.wait_for_event("worker_ready", worker=name)
    hog, other = (warden.worker(name).pid or 0 for name in ("hog-0", "other-0"))
    left = TOTAL - proc.rss_bytes(hog) - proc.rss_bytes(other)
    params = {"shape": "mapping", "size": TOTAL, "folder": str(tmp_path / "book")}

    name = warden.ask("jobs.submit", kind="bench.hog", params=params, max_attempts=1)["id"]
    job = warden.wait_for_job(name)

    taken = entries(tmp_path / "book")[-1].taken_bytes
    assert 0 < left - taken < 2.5 * 1024 * MIB, "it was ended when memory was short, and when there was some left"
    assert (job.status, job.reason) == ("failed", "memory_emergency")
    assert job.message.startswith("EMERGENCY BRAKE: ")
    assert re.search(r"available, (emergency_below|hard_floor) is |below hard_floor", job.message)
    why = msgspec.convert(warden.ask("jobs.why", job=name), WhyView)
    assert why.flight, "the record of the worker's last minute is with the job"
    assert why.flight[-1].job in {"", name}
    assert warden.told("emergency_brake", worker="hog-0")[0]["message"] == "EMERGENCY BRAKE"
    assert warden.worker("other-0").pid == other
    assert warden.worker("other-0").restarts == {}
    after = warden.wait_for_job(warden.submit("bench.hog"))
    assert after.status == "completed"
    assert after.result["pid"] != hog
    assert warden.wait_for_job(warden.submit("demo.count", steps=1)).status == "completed"
