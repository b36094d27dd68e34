"""The SDK's main thread as a real process, against a real ROUTER socket: load, work, drain, stop, and the end of each."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from supervisor import wire

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 40


class Played:
    """One worker process, and the supervisor's side of its socket."""

    def __init__(self, folder: Path, *, options: str = "{}", script: str = "") -> None:
        self.folder = folder
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(f"ipc://{folder / 'w.sock'}")
        env = {
            **os.environ,
            "WARDEN_ENDPOINT": f"ipc://{folder / 'w.sock'}",
            "WARDEN_WORKER": "sam-0",
            "WARDEN_GENERATION": "1",
            "WARDEN_TOKEN": "t",
            "WARDEN_STATE_DIR": str(folder),
            "WARDEN_OPTIONS": options,
        }
        self.line = b""
        self.heard: set[tuple[type, str, int]] = set()
        command = [sys.executable, "-c", script] if script else [sys.executable, "-P", "-m", "workers.fake"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)

    def wait_for(self, kind: type) -> Any:
        """Return the next message of this kind. What is sent again, because we were slow to say that it is stored, counts once."""
        while True:
            assert self.socket.poll(1000 * WITHIN_S), self.log()
            self.line, data = self.socket.recv_multipart()
            message = wire.decode_from_worker(data)
            if isinstance(message, wire.Accepted | wire.Result | wire.Failed):
                what = {wire.Accepted: "accepted", wire.Result: "result", wire.Failed: "failed"}[type(message)]
                self.say(wire.Stored(job=message.job, attempt=message.attempt, what=what))
                one = (type(message), message.job, message.attempt)
                if one in self.heard:
                    continue
                self.heard.add(one)
            if isinstance(message, kind):
                return message

    def say(self, message: wire.AnyToWorker) -> None:
        self.socket.send_multipart((self.line, wire.encode(message)))

    def order(
        self, *, job: str = "j-1", kind: str = "demo.count", attempt: int = 1, resume_from: str | None = None, room_bytes: int | None = None, **params: Any
    ) -> None:
        folder = str(self.folder / "jobs" / job)
        order = wire.JobOrder(job=job, attempt=attempt, kind=kind, params=params, dir=folder, resume_from=resume_from, memory_room_bytes=room_bytes)
        self.say(order)

    def end(self) -> int:
        return self.process.wait(WITHIN_S)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.socket.close()
        self.context.term()


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Played]]:
    """What starts a worker process; each is ended."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(closing(Played(tmp_path, **how)))


@pytest.fixture
def worker(play: Callable[..., Played]) -> Played:
    one = play()
    one.wait_for(wire.Ready)
    return one


@pytest.mark.parametrize(("room_bytes", "tells_mb", "told"), [(2**30, 100, True), (100 * 2**20, 100, True), (None, 100, False), (0, 0, False)])
def test_a_job_that_fits_is_begun_and_what_it_will_take_is_told_where_somebody_asks(worker: Played, room_bytes: int | None, tells_mb: int, told: bool) -> None:
    worker.order(steps=1, tells_mb=tells_mb, room_bytes=room_bytes)

    accepted, result = worker.wait_for(wire.Accepted), worker.wait_for(wire.Result)

    assert (accepted.memory_bytes > 100 * 2**20) is told
    assert result.value["counted"] == 1


def test_a_job_that_does_not_fit_is_not_begun_and_the_next_is_taken(worker: Played) -> None:
    worker.order(steps=1, tells_mb=101, room_bytes=100 * 2**20)
    failed = worker.wait_for(wire.Failed)
    worker.order(job="j-2", steps=1)
    accepted = worker.wait_for(wire.Accepted)

    assert (failed.reason, failed.job) == ("needs_memory", "j-1")
    assert 101 * 2**20 < failed.memory_bytes < 400 * 2**20
    assert accepted.job == "j-2"


def test_what_its_children_have_counts_among_what_a_worker_will_have_at_the_most(worker: Played) -> None:
    worker.order(steps=1, fault="hold", size_mb=300)
    worker.wait_for(wire.Result)
    holder = psutil.Process(int((worker.folder / "jobs/j-1/holder").read_text()))
    try:
        worker.order(job="j-2", steps=1, tells_mb=100, room_bytes=2**30)
        accepted = worker.wait_for(wire.Accepted)
    finally:
        worker.close()  # else the holder stays its zombie
        holder.kill()
        psutil.wait_procs([holder], timeout=WITHIN_S)

    assert accepted.job == "j-2"
    assert accepted.memory_bytes > 400 * 2**20


def test_params_that_nobody_can_weigh_end_the_job_as_bad_input(worker: Played) -> None:
    worker.order(room_bytes=2**30, stepps=1)

    failed = worker.wait_for(wire.Failed)

    assert (failed.reason, failed.memory_bytes) == ("bad_input", 0)
    assert "did you mean steps?" in failed.error


def test_a_job_is_accepted_done_and_its_folder_is_there(worker: Played) -> None:
    worker.order(steps=3, step_s=0.0)

    accepted, result = worker.wait_for(wire.Accepted), worker.wait_for(wire.Result)

    assert (accepted.job, accepted.attempt) == ("j-1", 1)
    assert result.value == {"counted": 3, "from": 0, "attempt": 1, "pid": worker.process.pid}
    assert (worker.folder / "jobs" / "j-1").is_dir()


def test_an_attempt_goes_on_from_a_checkpoint(worker: Played, tmp_path: Path) -> None:
    (tmp_path / "count").write_text("2")

    worker.order(steps=3, step_s=0.0, attempt=2, resume_from=str(tmp_path / "count"))

    assert worker.wait_for(wire.Result).value["from"] == 2


def test_a_drain_lets_the_job_finish(worker: Played) -> None:
    worker.order(steps=10, step_s=0.02)
    worker.wait_for(wire.Accepted)

    worker.say(wire.Drain())

    assert worker.wait_for(wire.Result).value["counted"] == 10
    worker.wait_for(wire.Bye)
    assert worker.end() == 0


def test_a_drain_of_an_idle_worker_ends_it(worker: Played) -> None:
    worker.say(wire.Drain())

    worker.wait_for(wire.Bye)
    assert worker.end() == 0


def test_sigterm_saves_and_ends_and_the_job_is_not_to_blame(worker: Played) -> None:
    worker.order(steps=10_000, checkpoint=True)
    worker.wait_for(wire.Accepted)
    while not (worker.folder / "jobs" / "j-1" / "checkpoint").exists():
        worker.wait_for(wire.Beat)

    worker.process.send_signal(signal.SIGTERM)

    assert worker.wait_for(wire.Failed).reason == "shutdown"
    worker.wait_for(wire.Bye)
    assert worker.end() == 0


def test_sigint_is_for_the_supervisor_alone(worker: Played) -> None:
    worker.process.send_signal(signal.SIGINT)
    worker.order(steps=1)

    assert worker.wait_for(wire.Result)


def test_a_cancel_ends_the_work_and_not_the_worker(worker: Played) -> None:
    worker.order(steps=10_000)
    worker.wait_for(wire.Accepted)

    worker.say(wire.Cancel(job="j-1", attempt=1))

    assert worker.wait_for(wire.Failed).reason == "cancelled"
    worker.order(steps=1, attempt=2)
    assert worker.wait_for(wire.Result)


@pytest.mark.parametrize(
    ("order", "reason", "says"),
    [
        ({"fault": "error"}, "user_error", "ValueError: the work failed, as it was told to"),
        ({"stpes": 3}, "bad_input", "demo.count: params: stpes is unknown (did you mean steps?)"),
        ({"steps": "x"}, "bad_input", "demo.count: params.steps: Expected `int`, got `str`"),
        ({"kind": "demo.nothing"}, "bad_input", "sam-0 serves demo.count, demo.other, demo.train, not demo.nothing"),
    ],
)
def test_what_goes_wrong_is_a_message_and_the_worker_lives(worker: Played, order: dict[str, Any], reason: str, says: str) -> None:
    worker.order(**order)

    failed = worker.wait_for(wire.Failed)

    assert (failed.reason, failed.error) == (reason, says)
    worker.order(steps=1, attempt=2)
    assert worker.wait_for(wire.Result)


def checkpointed(worker: Played) -> Path:
    """Return the checkpoint of a job that saves one at each step, once there is one."""
    worker.order(steps=10_000, step_s=0.01, checkpoint=True)
    saved = worker.folder / "jobs" / "j-1" / "checkpoint"
    while not saved.exists():
        worker.wait_for(wire.Beat)
    return saved


def test_a_paused_job_leaves_at_its_checkpoint_and_the_next_attempt_goes_on_from_there(worker: Played) -> None:
    saved = checkpointed(worker)

    worker.say(wire.Pause(job="j-1", attempt=1))

    failed = worker.wait_for(wire.Failed)
    assert (failed.reason, failed.error) == ("paused", "paused at its checkpoint")
    done = int(saved.read_text())
    worker.order(steps=done + 1, step_s=0.0, checkpoint=True, attempt=2, resume_from=str(saved))
    assert worker.wait_for(wire.Result).value["from"] == done


def test_a_job_without_checkpoints_pauses_at_once_and_the_worker_stays(worker: Played) -> None:
    worker.order(steps=10_000)
    worker.wait_for(wire.Accepted)

    worker.say(wire.Pause(job="j-1", attempt=1))

    assert worker.wait_for(wire.Failed).reason == "paused"
    worker.order(steps=1, attempt=2)
    assert worker.wait_for(wire.Result)


def test_a_job_that_was_taken_back_while_it_waited_in_the_worker_never_begins(worker: Played) -> None:
    worker.order(fault="stall")
    worker.wait_for(wire.Accepted)
    for job in ("j-2", "j-3", "j-4"):
        worker.order(job=job, steps=1)
    for message in (wire.Pause(job="j-2", attempt=1), wire.Cancel(job="j-3", attempt=1), wire.Pause(job="j-3", attempt=1)):
        worker.say(message)
    worker.say(wire.Pause(job="j-4", attempt=1))
    worker.say(wire.Resume(job="j-4", attempt=1))

    worker.say(wire.Cancel(job="j-1", attempt=1))

    ends = [(failed.job, failed.reason) for failed in (worker.wait_for(wire.Failed) for _ in range(3))]
    assert ends == [("j-1", "cancelled"), ("j-2", "paused"), ("j-3", "cancelled")]
    accepted = worker.wait_for(wire.Accepted)
    assert accepted.job == "j-4"
    assert worker.wait_for(wire.Result).job == "j-4"


def test_a_pause_during_a_slow_save_waits_for_it(worker: Played) -> None:
    worker.order(steps=100, step_s=0.0, checkpoint=True, save_s=0.3)
    while not any(job.critical for job in worker.wait_for(wire.Beat).jobs):
        pass

    worker.say(wire.Pause(job="j-1", attempt=1))

    assert worker.wait_for(wire.Failed).error == "paused at its checkpoint"
    assert (worker.folder / "jobs" / "j-1" / "checkpoint").is_file()


def test_a_slow_step_listens(worker: Played) -> None:
    worker.order(fault="slow", slow_s=3600.0)
    worker.wait_for(wire.Accepted)

    worker.say(wire.Cancel(job="j-1", attempt=1))

    assert worker.wait_for(wire.Failed).reason == "cancelled"


def test_a_holder_outlives_its_parent_and_sigterm(worker: Played) -> None:
    worker.order(steps=1, fault="hold", size_mb=8)
    worker.wait_for(wire.Result)
    holder = psutil.Process(int((worker.folder / "jobs" / "j-1" / "holder").read_text()))
    worker.process.kill()
    worker.end()

    try:
        holder.terminate()

        status = Path(f"/proc/{holder.pid}/status").read_text()
        assert int(re.findall(r"SigIgn:\s*(\w+)", status)[0], 16) & 1 << signal.SIGTERM - 1, "it ignores the signal, so it lives on"
        assert holder.memory_info().rss > 8 * 2**20
    finally:
        holder.kill()
        psutil.wait_procs([holder], timeout=WITHIN_S)


def test_a_pause_keeps_what_a_cancel_removes(play: Callable[..., Played]) -> None:
    script = """
from workers.base import Worker, main
class W(Worker):
    serves = ("demo.count",)
    def run(self, job, report):
        (job.dir / "kept").touch()
        while True:
            report.progress(0, 1)
    def abandon(self, folder):
        (folder / "kept").unlink()
main(W)
"""
    one = play(script=script)
    one.wait_for(wire.Ready)

    kept = one.folder / "jobs" / "j-1" / "kept"
    orders: list[wire.AnyToWorker] = [wire.Pause(job="j-1", attempt=1), wire.Cancel(job="j-1", attempt=2)]
    seen = []
    for attempt, order in enumerate(orders, 1):
        one.order(attempt=attempt)
        one.wait_for(wire.Accepted)
        one.say(order)
        seen.append((one.wait_for(wire.Failed).reason, kept.exists()))

    assert seen == [("paused", True), ("cancelled", False)]


def test_a_stack_is_dumped_on_request(worker: Played) -> None:
    worker.order(fault="stall")
    worker.wait_for(wire.Accepted)
    worker.wait_for(wire.Beat)  # by then the work stands still: a dump of a thread that runs reads its frames as they change

    while "_stand_still" not in worker.log():  # on a slow machine the first may come too early all the same
        worker.process.send_signal(signal.SIGUSR1)
        worker.wait_for(wire.Beat)


def test_unknown_options_are_refused_before_anything_is_loaded(play: Callable[..., Played]) -> None:
    one = play(options='{"load_sec": 3}')

    note = one.wait_for(wire.Log)

    assert (note.level, note.text) == ("error", "supervisor.toml: options: load_sec is unknown (did you mean load_s?)")
    assert one.end() == 1
    assert "Traceback" not in one.log()


def test_sigterm_while_loading_ends_it_at_once(play: Callable[..., Played]) -> None:
    one = play(options='{"load_s": 3600.0}')
    one.wait_for(wire.Hello)

    one.process.send_signal(signal.SIGTERM)

    assert one.end() in {0, -signal.SIGTERM}


def test_a_worker_started_by_hand_says_what_it_is() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WARDEN_")}

    done = subprocess.run([sys.executable, "-m", "workers.fake"], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=WITHIN_S)

    assert done.returncode == 1
    assert "this program is a worker, started by `warden run`, not by hand" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_result_that_json_cannot_hold_is_the_works_own_error(play: Callable[..., Played]) -> None:
    script = "from workers.base import Worker, main\nclass W(Worker):\n serves = ('demo.count',)\n def run(self, job, report): return {'x': object()}\nmain(W)"
    one = play(script=script)
    one.wait_for(wire.Ready)

    one.order()

    failed = one.wait_for(wire.Failed)
    assert failed.reason == "user_error"
    assert "Encoding objects of type object is unsupported" in failed.error


def test_the_example_of_the_manual_works(play: Callable[..., Played]) -> None:
    script = """
from workers.base import Worker, main
class Shout(Worker):
    serves = ("demo.shout",)
    def run(self, job, report):
        for i, word in enumerate(job.params["words"], 1):
            report.progress(i, len(job.params["words"]), phase="shout")
            with report.critical("saving"):
                pass
        return {"shouted": i}
main(Shout)
"""
    one = play(script=script)
    one.wait_for(wire.Ready)

    one.order(kind="demo.shout", words=["a", "b"])

    assert one.wait_for(wire.Result).value == {"shouted": 2}
