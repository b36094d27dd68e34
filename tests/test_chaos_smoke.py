"""Twenty seconds of chaos: the same run as `make chaos`, long enough to see that it runs, finds targets, and ends with every invariant held."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.mark.timeout(240)
def test_twenty_seconds_of_chaos_break_no_invariant() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--seconds", "20", "--seed", "7"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=230, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "worker_adopted" in run.stdout
    assert "false kills" in run.stdout
