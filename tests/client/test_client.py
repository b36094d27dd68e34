"""The client against a line that is scripted: what it asks, how long it waits, what it says when it has the device no more."""

import logging
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from supervisor.client import Away, Busy, Gpu, GpuError, Lease, Lost, Refused
from supervisor.client.lines import Control, Http
from supervisor.client.patience import Patience
from tests.support.live import WITHIN_S

GRANTED = {"lease": "l-7", "fence": 7, "device": "GPU-1", "expires_in_s": None, "env": {"CUDA_VISIBLE_DEVICES": "GPU-1"}}


class Scripted:
    """A line whose answers are given; what there is no answer for is granted, renewed, given back."""

    def __init__(self, *answers: Exception | Mapping[str, Any], renewals: Iterable[Exception | Mapping[str, Any]] = (), proves_pid: bool = True) -> None:
        self.proves_pid = proves_pid
        self.asked: list[tuple[dict[str, Any], float]] = []
        self.done: list[tuple[str, Any]] = []
        self.renewed = threading.Semaphore(0)
        self.unlocks: list[Exception] = []
        self._answers = list(answers)
        self._renewals = iter(renewals)

    def lock(self, args: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        self.asked.append((dict(args), timeout_s))
        return _said(self._answers.pop(0) if self._answers else GRANTED)

    def renew(self, args: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
        assert timeout_s > 0
        self.done.append(("renew", dict(args)))
        self.renewed.release()
        return _said(next(self._renewals, GRANTED))

    def unlock(self, args: Mapping[str, Any]) -> None:
        self.done.append(("unlock", dict(args)))
        if self.unlocks:
            raise self.unlocks.pop(0)

    def withdraw(self, ticket: str) -> None:
        self.done.append(("withdraw", ticket))

    def devices(self, timeout_s: float) -> list[dict[str, Any]]:
        self.done.append(("devices", timeout_s))
        return [{"id": "GPU-1"}]


def _said(answer: Exception | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture
def pauses() -> list[float]:
    """The pauses that were made."""
    return []


@pytest.fixture
def gpu_of(pauses: list[float]) -> Callable[..., Gpu]:
    """What makes a client on a line; its pauses take no time."""

    def make(line: Scripted, *, spread: float = 0.5) -> Gpu:
        return Gpu(line=line, patience=Patience(pause=pauses.append, spread=lambda: spread))

    return make


MakeGpu = Callable[..., Gpu]


def test_importing_it_loads_nothing_but_pythons_own_modules() -> None:
    code = "import sys; before = set(sys.modules); import supervisor.client; print('\\n'.join(set(sys.modules) - before))"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    foreign = {name for name in run.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in foreign if not name.startswith("supervisor.client")} <= {"supervisor", "supervisor.errors"}


def test_a_device_is_held_inside_and_given_back_after(gpu_of: MakeGpu) -> None:
    line = Scripted()
    with gpu_of(line).lease(need="8GiB", owner="trainer", device="GPU-1") as lease:
        inside = (lease.held, lease.id, lease.fence, lease.device, lease.env)
        lease.check()

    ((asked, timeout_s),) = line.asked
    assert inside == (True, "l-7", 7, "GPU-1", {"CUDA_VISIBLE_DEVICES": "GPU-1"})
    assert (asked["owner"], asked["need"], asked["priority"], asked["ttl_s"], asked["device"]) == ("trainer", "8GiB", 15, 30.0, "GPU-1")
    assert timeout_s == pytest.approx(120.0, abs=1.0)
    assert line.done == [("unlock", {"lease": "l-7", "fence": 7})]
    assert not lease.held


def test_the_lock_for_loading_is_asked_for_by_its_purpose(gpu_of: MakeGpu) -> None:
    line = Scripted()
    with gpu_of(line).lease(purpose="load"), gpu_of(line).lease():
        pass

    assert [asked.get("purpose", "inference") for asked, _ in line.asked] == ["load", "inference"]


def test_a_purpose_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="inference, load, 'training' was found"):
        Gpu(line=Scripted()).lease(purpose="training")  # type: ignore[arg-type]


def test_it_is_given_back_when_the_work_fails(gpu_of: MakeGpu) -> None:
    line = Scripted()
    with pytest.raises(ZeroDivisionError), gpu_of(line).lease():
        _ = 1 / 0

    assert [name for name, _ in line.done] == ["unlock"]


def test_a_lease_is_entered_once(gpu_of: MakeGpu) -> None:
    lease = gpu_of(Scripted()).lease()
    with lease, pytest.raises(GpuError, match="once"), lease:
        pass
    with pytest.raises(GpuError, match="once"), lease:
        pass


@pytest.mark.parametrize(("spread", "pause_s"), [(0.0, 4.0), (1.0, 6.0)])
def test_one_who_is_told_to_come_again_does_so_with_its_ticket_and_not_before(gpu_of: MakeGpu, pauses: list[float], spread: float, pause_s: float) -> None:
    line = Scripted(Busy("sam-0 holds it", ticket="t-9", retry_after_s=4.0))
    with gpu_of(line, spread=spread).lease(timeout=50, ticket="t-1") as lease:
        assert lease.held

    assert [asked["ticket"] for asked, _ in line.asked] == ["t-1", "t-9"]
    assert pauses == [pause_s]


def test_when_the_time_is_over_it_hears_who_holds_it_and_has_a_ticket(gpu_of: MakeGpu, pauses: list[float]) -> None:
    line = Scripted(Busy("sam-0 holds it", ticket="t-9", holders=[{"owner": "sam-0"}], retry_after_s=4.0))
    with pytest.raises(Busy, match="sam-0 holds it") as caught, gpu_of(line).lease(timeout=3):
        pass

    assert (caught.value.ticket, caught.value.holders) == ("t-9", ({"owner": "sam-0"},))
    assert (pauses, line.done) == ([], [])


def test_what_makes_no_sense_is_not_asked_again(gpu_of: MakeGpu) -> None:
    line = Scripted(Refused("conflict", "it would wait on itself"))
    with pytest.raises(Refused, match="wait on itself") as caught, gpu_of(line).lease():
        pass

    assert (caught.value.code, len(line.asked)) == ("conflict", 1)


def test_one_who_waits_for_a_supervisor_asks_ever_more_rarely_and_never_in_step(gpu_of: MakeGpu, pauses: list[float]) -> None:
    line = Scripted(*[Away("nobody listens") for _ in range(7)])
    with gpu_of(line, spread=1.0).lease(away="wait") as lease:
        assert lease.held

    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.5, 2.5])
    assert len({asked["ticket"] for asked, _ in line.asked}) == 1


def test_one_who_waits_for_a_supervisor_does_so_until_its_time_is_over(gpu_of: MakeGpu) -> None:
    with pytest.raises(Away, match="nobody listens"), gpu_of(Scripted(*[Away("nobody listens") for _ in range(9)])).lease(timeout=0.05):
        pass


def test_one_who_would_rather_fail_hears_at_once_that_nobody_answers(gpu_of: MakeGpu, pauses: list[float]) -> None:
    line = Scripted(Away("nobody listens"))
    with pytest.raises(Away), gpu_of(line).lease(away="fail"):
        pass

    assert (len(line.asked), pauses) == (1, [])


def test_one_who_goes_on_without_has_no_lease_and_it_is_said(gpu_of: MakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    line = Scripted(Away("nobody listens"))
    with caplog.at_level(logging.WARNING), gpu_of(line).lease(away="without") as lease:
        inside = (lease.held, lease.env)
        lease.check()

    assert inside == (False, {})
    assert line.done == []
    assert "without a lease" in caplog.text


def test_one_who_goes_on_without_waits_all_the_same_for_a_device_that_is_held(gpu_of: MakeGpu) -> None:
    with gpu_of(Scripted(Busy("sam-0 holds it", ticket="t-9"))).lease(away="without") as lease:
        assert lease.held


@pytest.mark.parametrize("away", ["", "ignore"])
def test_a_choice_that_is_none_is_refused(away: str) -> None:
    with pytest.raises(ValueError, match="wait, without, fail"):
        Gpu(line=Scripted()).lease(away=away)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["ftp://box", "http://", "box://1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Gpu(url)


def test_the_tokens_and_paths_of_an_address_are_kept() -> None:
    line = Http("https://box:8443/warden/", "secret")

    assert (line._host, line._port, line._base, line._headers["Authorization"]) == ("box", 8443, "/warden", "Bearer secret")


def test_whoever_is_interrupted_waits_no_longer(gpu_of: MakeGpu) -> None:
    class Interrupted(Scripted):
        def lock(self, args: Mapping[str, Any], timeout_s: float) -> Mapping[str, Any]:
            super().lock(args, timeout_s)
            raise KeyboardInterrupt

    line = Interrupted()
    with pytest.raises(KeyboardInterrupt), gpu_of(line).lease(ticket="t-1"):
        pass

    assert line.done == [("withdraw", "t-1")]


def renewed(line: Scripted, times: int) -> None:
    """Return once it was renewed so often."""
    for _ in range(times):
        assert line.renewed.acquire(timeout=WITHIN_S)


def expiring(in_s: float) -> dict[str, Any]:
    return {**GRANTED, "expires_in_s": in_s}


def test_it_is_renewed_until_it_is_given_back(gpu_of: MakeGpu) -> None:
    line = Scripted(expiring(0.03), renewals=[expiring(0.03)] * 1000)
    with gpu_of(line).lease():
        renewed(line, 3)

    assert line.done[-1] == ("unlock", {"lease": "l-7", "fence": 7})
    assert {str(args) for name, args in line.done if name == "renew"} == {str({"lease": "l-7", "fence": 7})}


def lost(lease: Lease) -> str:
    """Return why it was lost, once it was."""
    assert lease.lost.wait(WITHIN_S)
    with pytest.raises(Lost) as caught:
        lease.check()
    return str(caught.value)


def test_a_lease_that_is_over_is_said_to_be_lost_and_not_given_back(gpu_of: MakeGpu) -> None:
    told: list[str] = []
    line = Scripted(expiring(0.03), renewals=[Refused("conflict", "l-7 with fence 7 holds no more")])
    with gpu_of(line).lease(on_lost=told.append) as lease:
        why = lost(lease)

    assert (why, told) == ("l-7 with fence 7 holds no more", ["l-7 with fence 7 holds no more"])
    assert "unlock" not in [name for name, _ in line.done]


def test_where_renewals_alone_show_that_it_lives_a_silent_supervisor_means_lost_when_its_time_is_over(gpu_of: MakeGpu) -> None:
    began_s = time.monotonic()
    line = Scripted(expiring(0.3), renewals=[Away("nobody answers")] * 10_000, proves_pid=False)
    with gpu_of(line).lease() as lease:
        why = lost(lease)
        took_s = time.monotonic() - began_s

    assert why == "l-7 could not be renewed in time: nobody answers"
    assert took_s >= 0.3, "it was ours until then"


def test_where_its_process_is_proved_a_supervisor_that_comes_back_finds_it(gpu_of: MakeGpu) -> None:
    line = Scripted(expiring(0.03), renewals=[Away("nobody answers")] * 5 + [expiring(0.03)] * 10_000)
    with gpu_of(line).lease() as lease:
        renewed(line, 8)
        lease.check()

    assert line.done[-1][0] == "unlock"


def test_one_that_cannot_be_given_back_at_once_is_given_back_later(gpu_of: MakeGpu, pauses: list[float]) -> None:
    line = Scripted()
    with gpu_of(line).lease():
        line.unlocks = [Away("nobody answers"), Away("nobody answers")]

    assert [name for name, _ in line.done] == ["unlock"] * 3
    assert len(pauses) == 2


@pytest.mark.parametrize(("proves_pid", "words"), [(True, "held until this process ends"), (False, "held until its time is over")])
def test_one_that_cannot_be_given_back_at_all_is_named_with_what_follows(caplog: pytest.LogCaptureFixture, proves_pid: bool, words: str) -> None:
    line = Scripted(proves_pid=proves_pid)
    gpu = Gpu(line=line, patience=Patience(pause=lambda _: None, spread=lambda: -100.0))  # pauses that pass the deadline
    with caplog.at_level(logging.WARNING), gpu.lease():
        line.unlocks = [Away("nobody answers")]

    assert words in caplog.text


def test_one_that_was_over_already_is_no_failure_of_the_work(gpu_of: MakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    line = Scripted()
    with caplog.at_level(logging.WARNING), gpu_of(line).lease():
        line.unlocks = [Refused("conflict", "it was given back")]

    assert "over already" in caplog.text


def test_a_status_is_the_devices(gpu_of: MakeGpu) -> None:
    line = Scripted()

    assert gpu_of(line).status() == [{"id": "GPU-1"}]
    assert line.done == [("devices", 10.0)]


@pytest.mark.parametrize("code", ["failed", "stopping"])
def test_a_store_that_is_stuck_for_a_moment_says_nothing_of_the_lease(tmp_path: Path, code: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/control.sock")

        def answer() -> None:
            who, body = router.recv_multipart()
            problem = {"code": code, "message": "the job store may be stuck"}
            router.send_multipart([who, msgspec.json.encode({"id": msgspec.json.decode(body)["id"], "ok": False, "error": problem})])

        server = threading.Thread(target=answer, daemon=True)
        server.start()
        with pytest.raises(Away, match="may be stuck"):
            Control(tmp_path).renew({"lease": "l-7", "fence": 7}, WITHIN_S)
        server.join(WITHIN_S)


def test_what_nobody_thought_of_does_not_end_the_renewals(gpu_of: MakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    line = Scripted(expiring(0.03), renewals=[RuntimeError("boom"), {}, *[expiring(0.03)] * 10_000])
    with caplog.at_level(logging.WARNING), gpu_of(line).lease() as lease:
        renewed(line, 5)
        lease.check()

    assert line.done[-1][0] == "unlock"
    assert "RuntimeError: boom" in caplog.text


def test_what_nobody_thought_of_means_lost_when_its_time_is_over(gpu_of: MakeGpu) -> None:
    line = Scripted(expiring(0.1), renewals=[RuntimeError("boom")] * 10_000, proves_pid=False)
    with gpu_of(line).lease() as lease:
        why = lost(lease)

    assert why == "l-7 could not be renewed in time: RuntimeError: boom"


def test_one_who_fails_when_told_that_it_is_lost_is_heard(gpu_of: MakeGpu, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("boom")

    line = Scripted(expiring(0.03), renewals=[Refused("conflict", "it holds no more")])
    with gpu_of(line).lease(on_lost=fail) as lease:
        assert lost(lease) == "it holds no more"

    assert "on_lost failed" in caplog.text


NO_SECONDS = [math.nan, -1, -0.001, -math.inf, None, True, "30"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *[("timeout", found) for found in NO_SECONDS],
        *[("ttl", found) for found in [*NO_SECONDS, math.inf, 86401, 10**5000]],
        *[("priority", found) for found in [-1, 1_000_001, 10**5000, 1.0, math.nan, None, True, "15"]],
        *[("ticket", found) for found in [None, 7, b"t-1"]],
    ],
    ids=lambda found: str(found) if not isinstance(found, int) or found < 10**9 else "huge",
)
def test_a_value_that_is_none_is_refused_at_the_call(name: str, found: Any) -> None:
    line = Scripted()
    with pytest.raises(ValueError, match=f"^{name} must be .* was found$"):
        Gpu(line=line).lease(**{name: found})

    assert line.asked == []


@pytest.mark.parametrize("timeout", [*NO_SECONDS, 0, math.inf, 86401])
def test_a_status_is_not_waited_for_without_a_time(timeout: Any) -> None:
    line = Scripted()
    with pytest.raises(ValueError, match=r"timeout must be a number of seconds above 0 up to 86400, .* was found"):
        Gpu(line=line).status(timeout=timeout)

    assert line.done == []


def test_one_that_lives_by_its_renewals_alone_has_a_time() -> None:
    with pytest.raises(ValueError, match="ttl must be a number of seconds above 0"):
        Gpu(line=Scripted(proves_pid=False)).lease(ttl=0)
    Gpu(line=Scripted()).lease(ttl=0, timeout=0, priority=1_000_000)


def test_one_who_waits_for_ever_asks_again_and_again_with_its_ticket(gpu_of: MakeGpu) -> None:
    line = Scripted(*[Busy("sam-0 holds it", ticket="t-9")] * 3, Away("nobody listens"))
    with gpu_of(line).lease(timeout=math.inf, ticket="t-1") as lease:
        assert lease.held

    assert [asked["ticket"] for asked, _ in line.asked] == ["t-1", "t-9", "t-9", "t-9", "t-9"]
    assert {timeout_s for _, timeout_s in line.asked} == {3600.0}


def test_a_lease_that_was_never_entered_is_not_checked(gpu_of: MakeGpu) -> None:
    with pytest.raises(GpuError, match="never entered"):
        gpu_of(Scripted()).lease().check()


def heard(line: Scripted, lease: Lease, *, wanted: bool) -> tuple[bool, str]:
    """Return what a program hears, once that is so."""
    end_s = time.monotonic() + WITHIN_S
    while lease.yield_wanted is not wanted and time.monotonic() < end_s:
        renewed(line, 1)
    return lease.yield_wanted, lease.wanted_by


def test_a_program_hears_with_each_renewal_who_should_have_it_soon(gpu_of: MakeGpu) -> None:
    wanted = {**expiring(0.03), "yield_wanted": True, "wanted_by": "yolo.train"}
    asked, gone = threading.Event(), threading.Event()
    line = Scripted(expiring(0.03), renewals=(wanted if asked.is_set() and not gone.is_set() else expiring(0.03) for _ in range(100_000)))
    with gpu_of(line).lease() as lease:
        at_first = (lease.yield_wanted, lease.wanted_by)
        asked.set()
        then = heard(line, lease, wanted=True)
        gone.set()
        at_last = heard(line, lease, wanted=False)

    assert (at_first, then, at_last) == ((False, ""), (True, "yolo.train"), (False, ""))
