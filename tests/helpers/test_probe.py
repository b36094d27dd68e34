"""The probe as it is started: over the real pynvml and a fake driver, each trouble with its state and its hint."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.probing import HELLO, MODULE, UNASKED, Answer, Question, Reading, Trouble, User, Xid, answer_in, encode
from tests.support.fake_card import GIB, NEVER, T4, FakeCards, build
from tests.support.live import WITHIN_S

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-P", "-m", MODULE)


class Probe:
    """A probe that runs, and whoever asks it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._serial = HELLO

    def send(self, card: str = "", place: int = -1) -> int:
        """Ask, and return the serial of the question."""
        assert self.process.stdin is not None
        self._serial += 1
        self.process.stdin.write(encode(Question(serial=self._serial, card=card, place=place)))
        self.process.stdin.flush()
        return self._serial

    def answer(self, within_s: float = WITHIN_S) -> Answer | None:
        """Return the next answer, None when none comes in time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], within_s)
        return answer_in(self.process.stdout.readline()) if ready else None

    def ask(self, card: str = "", place: int = -1) -> Answer:
        """Return the answer to a question."""
        serial = self.send(card, place)
        answer = self.answer()
        assert answer is not None
        assert answer.serial == serial
        return answer

    def reading(self, card: str) -> Reading:
        """Return a reading that there must be."""
        answer = self.ask(card)
        assert answer.reading is not None, answer
        return answer.reading

    def trouble(self, card: str = "") -> Trouble:
        """Return the trouble that there must be."""
        answer = self.ask(card)
        assert answer.trouble is not None, answer
        return answer.trouble


@contextmanager
def probing(cards: FakeCards, command: Sequence[str] = COMMAND) -> Iterator[Probe]:
    """Start a probe, and end it by ending its input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **cards.env}) as process:
        probe = Probe(process)
        try:
            assert probe.answer() == Answer(serial=HELLO)
            yield probe
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(WITHIN_S) == 0
        finally:
            process.kill()


@pytest.fixture
def probe(cards: FakeCards) -> Iterator[Probe]:
    """A probe on the fake cards."""
    with probing(cards) as made:
        yield made


def test_it_lists_every_card_with_uuid_name_and_size(cards: FakeCards, probe: Probe) -> None:
    uuids = [cards.add("Fake T4"), cards.add("Fake A4000", total_bytes=16 * GIB)]

    listed = probe.ask().cards

    assert listed is not None
    assert [(card.uuid, card.name, card.total_bytes) for card in listed] == [(uuids[0], "Fake T4", T4), (uuids[1], "Fake A4000", 16 * GIB)]


def test_a_reading_has_the_memory_and_who_uses_it(cards: FakeCards, probe: Probe) -> None:
    card = cards.add(reserved_bytes=GIB)
    cards.claim(os.getpid(), 3 * GIB)
    cards.claim(1, GIB, graphics=True)

    found = probe.reading(card)

    assert (found.total_bytes, found.used_bytes, found.free_bytes) == (T4, 4 * GIB, T4 - 5 * GIB)
    assert found.users == (User(pid=os.getpid(), used_bytes=3 * GIB), User(pid=1, used_bytes=GIB))
    assert found.utilisation == 42


def test_a_card_without_processes_has_an_empty_list(cards: FakeCards, probe: Probe) -> None:
    assert probe.reading(cards.add()).users == ()


def test_a_process_in_both_lists_is_told_once(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    cards.claim(os.getpid(), 2 * GIB, name="compute")
    cards.claim(os.getpid(), GIB, name="graphics", graphics=True)

    assert probe.reading(card).users == (User(pid=os.getpid(), used_bytes=2 * GIB),)


def test_a_size_that_is_not_available_is_none_and_the_process_is_there(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    cards.claim(os.getpid(), 2 * GIB, shown=False)

    found = probe.reading(card)

    assert found.users == (User(pid=os.getpid(), used_bytes=None),)
    assert found.used_bytes == 2 * GIB


def test_memory_with_no_process_is_in_the_total_alone(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    cards.claim(4242, 6 * GIB, release_s=NEVER, listed=False)

    found = probe.reading(card)

    assert (found.used_bytes, found.users) == (6 * GIB, ())


def test_pids_that_are_none_are_left_out(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    for pid in (0, 2**32 - 1):
        cards.claim(pid, GIB, release_s=NEVER)
    cards.claim(os.getpid(), GIB)

    assert probe.reading(card).users == (User(pid=os.getpid(), used_bytes=GIB),)


def test_memory_comes_back_some_time_after_its_process_ended(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    with subprocess.Popen(["sleep", "3600"]) as holder:
        cards.claim(holder.pid, 8 * GIB, release_s=3600.0)
        holder.kill()
    late = probe.reading(card)
    cards.claim(holder.pid, 8 * GIB, release_s=0.0)
    back = probe.reading(card)

    assert (late.used_bytes, late.users) == (8 * GIB, (User(pid=holder.pid, used_bytes=8 * GIB),))
    assert (back.used_bytes, back.users) == (0, ())


@pytest.mark.parametrize(
    ("code", "words", "hint"), [(9, "not loaded", "modprobe nvidia"), (18, "two versions", "restart the machine"), (4, "denies", "DeviceAllow")]
)
def test_a_driver_that_does_not_begin_is_named_with_what_to_do_and_asked_anew(cards: FakeCards, probe: Probe, code: int, words: str, hint: str) -> None:
    card = cards.add()
    cards.put("init", code)

    found = probe.trouble()

    assert found.state == "unverifiable"
    assert words in found.what
    assert f"NVML {code} at nvmlInit" in found.what
    assert hint in found.hint
    assert probe.trouble(card) == found
    cards.take("init")
    assert probe.reading(card).total_bytes == T4


def test_no_driver_at_all_is_named_with_what_to_do(tmp_path: Path) -> None:
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    with probing(FakeCards(tmp_path / "cards", nowhere)) as probe:
        found = probe.trouble()

    assert found.state == "unverifiable"
    assert "libnvidia-ml.so.1" in found.what
    assert 'gpu.backend = "host"' in found.hint


def test_a_driver_without_a_card_is_named(probe: Probe) -> None:
    assert "lists no card" in probe.trouble().what


@pytest.mark.parametrize(("code", "words"), [(15, "fallen off"), (16, "reset"), (999, "without saying why")])
def test_a_card_that_fails_in_the_middle_is_lost_and_a_later_reading_finds_it_again(cards: FakeCards, probe: Probe, code: int, words: str) -> None:
    card = cards.add()
    assert probe.reading(card).free_bytes == T4

    cards.put("0/error", code)
    found = probe.trouble(card)
    cards.take("0/error")

    assert found.state == "lost"
    assert words in found.what
    assert "dmesg" in found.hint
    assert probe.reading(card).free_bytes == T4


def test_a_card_that_is_lost_while_its_processes_are_listed_is_lost(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    cards.put("0/error-nvmlDeviceGetComputeRunningProcesses_v3", 15)

    assert probe.trouble(card).state == "lost"


def test_a_card_that_cannot_be_read_is_listed_without_a_size(cards: FakeCards, probe: Probe) -> None:
    cards.add()
    cards.put("0/error-nvmlDeviceGetMemoryInfo", 3)
    cards.put("0/error-nvmlDeviceGetMemoryInfo_v2", 3)

    listed = probe.ask().cards

    assert listed is not None
    assert [card.total_bytes for card in listed] == [0]


@pytest.mark.parametrize(("key", "words"), [("mig", "MIG mode is on"), ("coherent", "NUMA node")])
def test_what_can_be_proved_of_a_card_is_said_as_it_is_listed(cards: FakeCards, probe: Probe, key: str, words: str) -> None:
    cards.add()
    cards.add()
    cards.put(f"0/{key}", 1)

    first, second = probe.ask().cards or ()

    assert first.trouble is not None
    assert words in first.trouble.what
    assert second.trouble is None


@pytest.mark.parametrize("function", ["nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigMode"])
def test_a_card_that_is_lost_as_it_is_listed_keeps_no_other_from_being_listed(cards: FakeCards, probe: Probe, function: str) -> None:
    lost, other = cards.add(), cards.add()
    cards.put(f"0/error-{function}", 15)

    listed = probe.ask().cards or ()

    assert [card.uuid for card in listed] == [lost, other]
    assert listed[1].total_bytes == T4
    assert listed[0].trouble is not None
    assert listed[0].trouble.state == "lost"


def test_a_card_is_read_while_another_is_lost_whatever_a_look_up_by_uuid_says(cards: FakeCards, probe: Probe) -> None:
    cards.add()
    card = cards.add()
    cards.put("0/error", 15)

    assert probe.reading(card).free_bytes == T4


def test_a_card_is_found_by_its_number_without_touching_one_that_hangs(cards: FakeCards, probe: Probe) -> None:
    cards.add()
    card = cards.add()
    cards.put("0/hang")

    answer = probe.ask(card, place=1)
    cards.take("0/hang")

    assert answer.reading is not None


def test_a_number_that_belongs_to_another_card_after_a_boot_is_not_believed(cards: FakeCards, probe: Probe) -> None:
    first, second = cards.add(), cards.add(total_bytes=2 * T4)

    assert [answer.reading.total_bytes for answer in (probe.ask(first, place=1), probe.ask(second, place=0)) if answer.reading] == [T4, 2 * T4]


def test_a_fault_of_the_card_is_told_unasked_and_readings_go_on(cards: FakeCards, probe: Probe) -> None:
    cards.add()
    card = cards.add()
    probe.reading(card)

    cards.report(31, card=1)

    assert probe.answer() == Answer(serial=UNASKED, xid=Xid(card, 31))
    assert probe.reading(card).free_bytes == T4


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"])
@pytest.mark.parametrize("how", ["error", "hang"])
def test_a_driver_that_tells_of_no_faults_or_hangs_over_them_is_read_all_the_same(cards: FakeCards, probe: Probe, function: str, how: str) -> None:
    card = cards.add()
    cards.put(f"{how}-{function}", 3)

    assert [probe.reading(card).free_bytes for _ in range(3)] == [T4] * 3


def test_a_card_that_is_not_there_any_more_is_lost(cards: FakeCards, probe: Probe) -> None:
    cards.add()

    found = probe.trouble("GPU-of-yesterday")

    assert (found.state, "does not list this card" in found.what) == ("lost", True)


@pytest.mark.parametrize(("code", "words"), [(3, "cannot tell how much"), (4, "denies the reading")])
def test_memory_that_cannot_be_read_is_unverifiable(cards: FakeCards, probe: Probe, code: int, words: str) -> None:
    card = cards.add()
    cards.put("0/error-nvmlDeviceGetMemoryInfo", code)
    cards.put("0/error-nvmlDeviceGetMemoryInfo_v2", code)

    found = probe.trouble(card)

    assert (found.state, words in found.what) == ("unverifiable", True)


@pytest.mark.parametrize("code", [3, 4, 13])
def test_a_list_of_processes_that_is_not_given_is_no_trouble(cards: FakeCards, probe: Probe, code: int) -> None:
    card = cards.add()
    for version in ("_v2", "_v3"):
        cards.put(f"0/error-nvmlDeviceGetComputeRunningProcesses{version}", code)

    found = probe.reading(card)

    assert (found.users, found.free_bytes) == (None, T4)


def test_what_can_be_done_without_is_absent(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    cards.claim(os.getpid(), GIB)
    for function in ("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMigMode", "nvmlDeviceGetAddressingMode", "nvmlDeviceGetGraphicsRunningProcesses_v3"):
        cards.put(f"0/error-{function}", 3)

    found = probe.reading(card)

    assert (found.utilisation, found.users) == (None, (User(pid=os.getpid(), used_bytes=GIB),))


def test_the_second_memory_call_failing_leaves_the_first(cards: FakeCards, probe: Probe) -> None:
    card = cards.add(reserved_bytes=GIB)
    cards.put("0/error-nvmlDeviceGetMemoryInfo_v2", 25)

    found = probe.reading(card)

    assert (found.used_bytes, found.free_bytes) == (GIB, T4 - GIB), "the first version counts the driver's reserve as used"


@pytest.mark.parametrize(("key", "words"), [("mig", "MIG mode is on"), ("coherent", "NUMA node")])
def test_a_card_whose_free_memory_proves_nothing_is_unverifiable(cards: FakeCards, probe: Probe, key: str, words: str) -> None:
    card = cards.add()
    cards.put(f"0/{key}", 1)

    found = probe.trouble(card)

    assert (found.state, words in found.what) == ("unverifiable", True)


@pytest.mark.parametrize(
    ("flag", "listed"),
    [("-DNO_V3", True), ("-DNO_V2", False), ("-DNO_MEMORY_V2", True), ("-DNO_EVENTS", True)],
    ids=["no v3 of the lists", "neither version of the lists", "no v2 of the memory", "no faults"],
)
def test_a_driver_that_lacks_the_newest_calls_is_asked_the_older_ones(tmp_path: Path, flag: str, listed: bool) -> None:
    cards = FakeCards(tmp_path / "cards", build(tmp_path / "lib", flag))
    card = cards.add()
    cards.claim(os.getpid(), GIB, name="me")
    with probing(cards) as probe:
        found = probe.reading(card)

    assert (found.users, found.used_bytes) == ((User(pid=os.getpid(), used_bytes=GIB),) if listed else None, GIB)


def test_a_call_that_hangs_is_answered_when_it_comes_back(cards: FakeCards, probe: Probe) -> None:
    card = cards.add()
    cards.put("0/hang-nvmlDeviceGetMemoryInfo_v2")

    serial = probe.send(card)
    nothing = probe.answer(within_s=0.2)
    cards.take("0/hang-nvmlDeviceGetMemoryInfo_v2")
    late = probe.answer()

    assert nothing is None
    assert late is not None
    assert (late.serial, late.reading is not None) == (serial, True)


def test_a_probe_that_hangs_ends_with_its_parent(cards: FakeCards) -> None:
    card = cards.add()
    cards.put("hang")
    script = (
        "import os, subprocess, sys, select\n"
        f"probe = subprocess.Popen([*{list(COMMAND)!r}, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "probe.stdout.readline()\n"
        f"probe.stdin.write({encode(Question(serial=1, card=card))!r}); probe.stdin.flush()\n"
        "print(probe.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **cards.env}) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.send_signal(signal.SIGKILL)

            assert select.select([pidfd], [], [], WITHIN_S)[0], "the probe outlived its parent"
        finally:
            os.close(pidfd)


def test_a_probe_whose_parent_is_gone_already_does_not_begin(cards: FakeCards) -> None:
    done = subprocess.run([*COMMAND, "1"], stdin=subprocess.PIPE, capture_output=True, timeout=WITHIN_S, check=False, env={**os.environ, **cards.env})

    assert (done.returncode, done.stdout) == (0, b"")


def test_a_line_that_is_no_question_ends_it_with_a_sentence(cards: FakeCards) -> None:
    done = subprocess.run(COMMAND, input=b"hello\n", capture_output=True, timeout=WITHIN_S, check=False, env={**os.environ, **cards.env})

    assert done.returncode == 1
    assert b"expected a question to the probe" in done.stderr
