"""What all tests share: a known environment, how hard hypothesis looks, and the proof that no process is left."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A person's own settings must not decide whether the tests pass.
for _name in [name for name in os.environ if name.startswith(("WARDEN_", "JOB_", "SAM2_"))]:
    del os.environ[_name]

# A shell that starts us in the background has us ignore Ctrl-C, nohup the end of a terminal, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No deadline: a busy machine is not a failure. Derandomized, so that a red run is red again.
settings.register_profile("steady", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that take longest: at the end one process would work them off while the others have nothing to do."""
    items.sort(key=lambda item: item.path.stem not in {"test_bench_smoke", "test_chaos_smoke"})


@pytest.hookimpl(trylast=True)  # xdist ends its own processes first
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a process works in a test's folder, and end it: one that threw its environment away is seen in no other way."""
    if hasattr(session.config, "workerinput"):  # a part of a run: the whole looks once
        return
    folder = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # no hook gets it in another way
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            place = (path / "cwd").readlink()  # a zombie has none
            if place.is_relative_to(folder):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                os.kill(int(path.name), signal.SIGKILL)
                print(f"\nLEFT OVER: {command}(pid {path.name}, in {place})")  # noqa: T201  # the report is over
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
