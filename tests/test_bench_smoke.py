"""Each benchmark runs and prints its table. What the numbers are is not asked: they belong to the machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(path.name for path in (ROOT / "tests" / "bench").glob("[a-z]*.py"))
LOADS_MODELS = {"overhead.py", "handover.py", "hogs.py", "masks.py", "sse.py"}  # hogs.py needs numpy alone
RULE = re.compile(r"^-+(  -+)+$", re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("script", [pytest.param(name, marks=[pytest.mark.models] if name in LOADS_MODELS else []) for name in SCRIPTS])
def test_a_quick_run_prints_a_table(script: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "bench" / script), "--quick"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=350
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rule = RULE.search(done.stdout)
    assert rule
    assert done.stdout[rule.end() :].strip(), "a table has at least one row"
    assert not {"nan", "inf"} & set(done.stdout.split())


def test_there_is_a_script_for_each_promise() -> None:
    work = [
        "decide.py",
        "handover.py",
        "idle.py",
        "masks.py",
        "overhead.py",
        "progress.py",
        "sse.py",
        "submit.py",
        "submit_peers.py",
    ]
    processes = ["beats.py", "logs_speed.py", "many.py", "restart.py", "stall.py"]
    device = ["four_priorities.py", "locks.py", "probe.py", "schedules.py"]
    memory = ["benign.py", "guarding.py", "hogs.py"]

    assert sorted(work + processes + device + memory) == SCRIPTS
