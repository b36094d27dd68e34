"""Every direction in which a card changes hands, each with what can go wrong on the way; the card's own ledger is the witness that no two ever held it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from supervisor.shapes import JobView
from tests.faults.test_http import ANY_PORT, TRAINER, url_of
from tests.support.fake_card import GIB, NEVER, FakeCards
from tests.support.live import WARDEN, WITHIN_S, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

DIRECTIONS: Final = ("sam -> yolo", "yolo -> sam", "sam -> program", "program -> sam")
SAM_MB: Final = 14 * 1024
OTHER_MB: Final = 8 * 1024
LATE_S: Final = 1.5
SHORT: Final = 'vacate_timeout = "1500ms"\npoll_max = "250ms"'
HOLDS: Final = f"""
import os, signal, sys
from workers.fake_card import claim
release_s, how = float(sys.argv[1]), sys.argv[2]
if how == "deaf":
    signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
claim({OTHER_MB}, release_s=release_s)
print(os.getpid(), flush=True)
sys.stdin.read()
sys.exit(3 if how == "fails" else 0)
"""
"""A program that has as much of the card as YOLO until its input ends."""


class Program:
    """`warden gpu run` with a program that holds the card."""

    def __init__(self, warden: Live, env: Mapping[str, str], *, release_s: float = 0.0, how: str = "", timeout: str = "10m") -> None:
        self.process = subprocess.Popen(
            [WARDEN, "gpu", "run", "--need", "8GiB", "--timeout", timeout, "--", sys.executable, "-c", HOLDS, str(release_s), how],
            cwd=warden.folder, env={**os.environ, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begun(self) -> int:
        """Return the pid of the program, once it holds the card."""
        line = self.line()
        assert line, self.process.communicate(timeout=WITHIN_S)[1]
        return int(line)

    def line(self) -> str:
        """Return the next line of the program."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ended(self) -> tuple[int, str]:
        """End its input, and return how it ended and what it said."""
        _, said = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, said


@dataclass
class Story:
    """One hand-over on the fake T4, from whoever has the card to whoever is next; SAM is back on it at the end."""

    make: Callable[..., Live]
    cards: FakeCards
    folder: Path
    programs: list[Program] = field(default_factory=list)
    warden: Live = field(init=False)
    leaver: str = field(init=False)
    newcomer: str = field(init=False)
    release_s: float = 0.0
    job: str = ""
    pid: int = 0  # of whoever has the card
    mark: int = 0  # where the hand-over begins in the log

    @property
    def stay(self) -> Path:
        """Return the file that keeps whoever leaves from its end, for as long as it is there; of a program nobody asks that."""
        return self.folder / "stay"

    def begin(self, direction: str, *, release_s: float = 0.0, exit_code: int = 0, gpu: str = "", head: str = "", api: str = "off") -> None:
        """Start Warden. release_s, exit_code: how the end of the one who will leave goes."""
        self.leaver, self.newcomer = direction.split(" -> ")
        self.release_s = release_s
        ends = {self.leaver: f', card_release_s = {release_s}, exit_code = {exit_code}, stay_while = "{self.stay}"'}
        trainer = self.folder / "trainer.py"
        trainer.write_text(TRAINER)
        self.warden = self.make(
            f"""
{head}
[jobs]
retries = {{ lost = 5, crash = 5 }}
[gpu]
backend = "nvml"
{gpu}
[workers.sam]
command = ["{{python}}", "-P", "-m", "workers.fake"]
serves = ["demo.count"]
gpu = "14GiB"
options = {{ card_mb = {SAM_MB}{ends.get("sam", "")} }}
[workers.yolo]
command = ["{{python}}", "-P", "{trainer}"]
serves = ["yolo.train"]
gpu = "8GiB"
priority = 15
resident = false
options = {{ card_mb = {OTHER_MB}{ends.get("yolo", "")} }}
""",
            api=api,
        )

    def give(self, *, how: str = "") -> None:
        """Give the card to the one who will leave. how: the program's manner."""
        self.pid = self.sam_is_back()
        if self.leaver == "yolo":
            self.job = self.warden.submit("yolo.train", steps=100_000)
            assert self.warden.holds(lambda: self.warden.job(self.job).done >= 1)
            self.pid = self.warden.worker("yolo-0").pid or 0
        elif self.leaver == "program":
            self.pid = self.program(release_s=self.release_s, how=how).begun()
        self.mark = self.warden.mark()

    def order(self) -> None:
        """Begin the hand-over."""
        if self.newcomer == "yolo":
            self.job = self.warden.submit("yolo.train", steps=2)
        elif self.newcomer == "program":
            self.program()
        elif self.leaver == "yolo":
            self.warden.ask("jobs.cancel", job=self.job)
        else:
            self.let_go()

    def served(self) -> None:
        """Return once whoever was to get the card has had it, and SAM is back on it."""
        if self.newcomer == "yolo":
            assert self.warden.wait_for_job(self.job).status == "completed", self.warden.job(self.job)
        elif self.newcomer == "program":
            self.programs[-1].begun()
            code, words = self.programs[-1].ended()
            assert code == 0, words
        elif self.leaver == "yolo":
            assert self.warden.wait_for_job(self.job).status == "cancelled", self.warden.job(self.job)
        assert self.sam_is_back() != self.pid
        assert not alive(self.pid)

    def program(self, **how: Any) -> Program:
        """Run a program under a lease."""
        self.programs.append(Program(self.warden, self.cards.env, **how))
        return self.programs[-1]

    def let_go(self) -> None:
        """End the input of the program that holds the card, and do not wait for its end."""
        process = self.programs[-1].process
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None

    def sam_is_back(self) -> int:
        """Return SAM's pid once it is ready, and has the card to itself."""
        assert self.warden.holds(lambda: self.warden.worker("sam-0").state == "ready"), f"{self.warden.status().devices}\n{self.warden.said()[-3000:]}"
        sam = self.warden.worker("sam-0")
        last = self.cards.ledger()[-1]
        assert (last.owner, last.bytes, last.beside) == (f"sam-0#{sam.generation}", 14 * GIB, ())
        return last.pid

    def holders(self) -> list[int | None]:
        """Return the pids of those who hold the card."""
        return [one.pid for one in self.warden.status().devices[0].holders]

    def handed(self, event: str) -> dict[str, Any]:
        """Return what the log says of this hand-over."""
        worker = None if self.newcomer == "program" else f"{self.newcomer}-0"
        return self.warden.wait_for_event(event, after=self.mark, worker=worker)

    def restart(self) -> None:
        """Start the supervisor anew after it was killed."""
        self.warden.start(env=self.cards.env)


@pytest.fixture
def story(cards: FakeCards, live: MakeLive, tmp_path: Path) -> Iterator[Story]:
    """A hand-over on a fake T4. At its end the ledger is read: the card was never asked for more than it has, and never had two holders."""
    cards.add()

    def make(toml: str, *, api: str) -> Live:
        warden: Live = live(toml, start=False, api=api)
        return warden.start(env=cards.env)

    told = Story(make, cards, tmp_path)
    yield told
    for program in told.programs:
        program.process.kill()
        program.process.communicate(timeout=WITHIN_S)
    assert not cards.was_over(), "more of the card was held than it has"
    assert not cards.were_together(), "two held the card at once"
    assert len(cards.ledger()) >= 2, "the card was never used"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_whoever_is_next_gets_the_card_after_memory_that_comes_back_late(story: Story, direction: str) -> None:
    story.begin(direction, release_s=LATE_S)
    story.give()

    story.order()
    story.served()

    if story.leaver != "program":
        vacated = story.handed("gpu_vacated")
        assert vacated["back_s"] - vacated["gone_s"] > LATE_S / 2, vacated


HANGS: Final = {"head": '[watchdog]\nstop_grace = "300ms"'}


@pytest.mark.parametrize(
    ("direction", "end"),
    [pytest.param(direction, end, id=f"{direction}: {name}") for direction in DIRECTIONS[:3] for name, end in (("hangs", HANGS), ("exits 7", {"exit_code": 7}))]
    + [pytest.param(DIRECTIONS[3], {"how": how}, id=f"{DIRECTIONS[3]}: {how}") for how in ("fails", "deaf", "is killed")],
)
def test_whoever_leaves_badly_keeps_the_card_from_nobody(story: Story, direction: str, end: dict[str, Any]) -> None:
    how = end.get("how", "")
    story.begin(direction, release_s=0.3, **{name: value for name, value in end.items() if name != "how"})
    story.give(how=how)
    if end is HANGS:
        story.stay.touch()

    if how in {"deaf", "is killed"}:
        story.programs[0].process.send_signal(signal.SIGTERM)  # of `warden gpu run`, which hands it on
    else:
        story.order()
    if how == "deaf":
        assert story.programs[0].line() == "no\n"
        assert story.holders() == [story.pid], "nobody but its own user ends a program that is not ours"
        os.kill(story.pid, signal.SIGKILL)
    story.served()

    if story.leaver == "program":
        assert story.programs[0].process.wait(WITHIN_S) == {"fails": 3, "deaf": 128 + 9, "is killed": 128 + 15}[how]
    elif end is HANGS:
        story.warden.wait_for_event("worker_killed", worker=f"{story.leaver}-0", after=story.mark)
    else:
        left = story.warden.wait_for_event("worker_exited", worker=f"{story.leaver}-0", after=story.mark)
        assert left["reason"].startswith("exit code 7, as it left")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_memory_that_never_comes_back_is_a_refusal_with_pid_and_bytes_told_alike_to_everybody(story: Story, direction: str) -> None:
    story.begin(direction, release_s=NEVER, gpu=SHORT, api="off" if direction.endswith("sam") else ANY_PORT)
    story.give()
    held = f"(pid {story.pid}) holds {'14GiB' if story.leaver == 'sam' else '8GiB'}"

    if story.newcomer == "yolo":
        said = refused_training(story)
    elif story.newcomer == "program":
        said = refused_program(story)
    else:
        story.order()
        said = story.handed("gpu_refused")["reason"]

    refused = story.handed("gpu_refused")
    assert held in said, said
    assert held in refused["reason"], refused
    assert "not proved in 2 s" in refused["reason"], refused  # 1.5 s, rounded
    sam = story.warden.worker("sam-0")
    assert (sam.state, sam.wanted) == ("down", "up")
    assert not story.warden.seen("worker_spawned", after=story.mark), "nobody comes before the memory is back"
    story.cards.take(f"0/claims/{story.pid}")
    assert story.sam_is_back() != story.pid


def refused_training(story: Story) -> str:
    """Start a training over HTTP, and return the words of the refusal: the same in answer, job, log and on the command line."""
    with httpx.Client(base_url=url_of(story.warden), timeout=WITHIN_S) as http:
        answer = http.post("/api/training/jobs", json={"params": {"steps": 2}})
    body = answer.json()
    job = story.warden.job(body["job"]["id"])
    shown = msgspec.json.decode(story.warden.cli("jobs", "show", job.id, "--json").stdout, type=JobView)

    assert (answer.status_code, body["reason"], job.status, job.reason) == (503, "gpu_refused", "failed", "gpu_refused")
    assert job.error is not None
    said = story.handed("gpu_refused")["reason"]
    assert {body["detail"], job.message, job.error.message, shown.message} == {job.message}
    assert job.error.evidence == body["evidence"] == said
    assert said in job.message
    assert said in story.warden.cli("jobs", "why", job.id).stdout
    return job.message


def refused_program(story: Story) -> str:
    """Ask for the card by `warden gpu run` and then over HTTP, and return the words of the refusal: the same in the log and for both."""
    code, words = story.program().ended()
    said = story.handed("gpu_refused")["reason"]
    with httpx.Client(base_url=url_of(story.warden), timeout=WITHIN_S) as http:
        answer = http.post("/v1/gpu/lock", json={"owner": "far", "need": "8GiB", "timeout_s": 60})

    assert code == 75
    assert said in words
    assert (answer.status_code, answer.json()["reason"]) == (503, "gpu_refused")
    assert said.partition("; ")[2].partition(", down for")[0] in answer.json()["detail"]
    return words


INSTANTS: Final = ("after the order", "while the tree is going", "while memory is awaited", "just after the grant")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_supervisor_that_is_killed_in_the_middle_gives_the_card_to_nobody_twice(story: Story, direction: str) -> None:
    story.begin(direction, release_s=0.2)
    for instant in INSTANTS:
        story.give()

        killed(story, instant)
        story.stay.unlink(missing_ok=True)
        story.restart()
        if instant == INSTANTS[2]:
            assert not story.warden.seen("worker_spawned", after=story.mark), "nobody comes before the memory is back"
            story.cards.take(f"0/claims/{story.pid}")

        story.served()


def killed(story: Story, instant: str) -> None:
    """Order the hand-over, and kill the supervisor at this instant."""
    warden, leaver = story.warden, f"{story.leaver}-0"
    going, awaited = instant == INSTANTS[1], instant == INSTANTS[2]
    if going and story.leaver == "program":  # nobody tells it to go: it ends while no supervisor is there to see it
        warden.kill()
        story.order()
        assert warden.holds(lambda: not alive(story.pid))
        return
    if going:
        story.stay.touch()
    if awaited:
        story.cards.keep(story.pid)
    story.order()
    if going:
        warden.wait_for_event("worker_draining", worker=leaver, after=story.mark)
    elif awaited and story.leaver != "program":
        warden.wait_for_event("worker_stopped", worker=leaver, after=story.mark)
    else:
        story.handed("lease_granted" if instant == INSTANTS[3] else "gpu_vacating")
    warden.kill()
