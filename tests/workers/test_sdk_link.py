"""The worker's thread that talks to the supervisor, against a real ROUTER socket."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from supervisor import wire
from workers import beats as beats_module
from workers import link as link_module
from workers.beats import Identity
from workers.link import Link
from workers.report import Job, JobCancelled, Report, WorkPauses

WITHIN_S = 40
STAMP: Any = {"worker": "sam-0", "generation": 3, "token": "secret"}


class Peer:
    """The supervisor's side."""

    def __init__(self, path: Path) -> None:
        self.endpoint = f"ipc://{path}"
        self.heard: list[Any] = []
        self.line = b""
        self.open()

    def open(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.bind(self.endpoint)

    def close(self) -> None:
        """Be gone, with the file of the socket: closing alone removes it some time later, and then perhaps that of the next socket of this name."""
        self.socket.close()
        self.context.term()

    def receive(self) -> Any:
        assert self.socket.poll(1000 * WITHIN_S), f"nothing more came after {self.heard}"
        sender, data = self.socket.recv_multipart()
        assert sender.startswith(b"sam-0#3#")
        assert self.line in (b"", sender), "it keeps its line over reconnects"
        self.line = sender
        self.heard.append(wire.decode_from_worker(data))
        return self.heard[-1]

    def wait_for(self, kind: type, *, so: Callable[[Any], bool] = lambda _message: True) -> Any:
        while True:
            message = self.receive()
            if isinstance(message, kind) and so(message):
                return message

    def say(self, message: wire.AnyToWorker) -> None:
        self.socket.send_multipart((self.line, wire.encode(message)))


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    one = Peer(tmp_path / "w.sock")
    yield one
    one.close()


@pytest.fixture
def link(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Link]:
    monkeypatch.setattr(link_module, "RESEND_S", 0.1)
    monkeypatch.setattr(beats_module, "BEAT_IDLE_S", 0.1)
    one = Link(Identity(endpoint=peer.endpoint, **STAMP), serves=("demo.count",), device_bytes=lambda: 7, params={"demo.count": {"type": "object"}})
    one.start()
    peer.wait_for(wire.Hello)
    yield one
    if one._thread.is_alive():
        one._unstored.clear()
        one.close(wire.Bye(**STAMP))


def report_of(folder: Path, job: str = "j-1") -> Report:
    return Report(Job(id=job, attempt=1, kind="demo.count", params={}, dir=folder))


def test_it_says_hello_and_beats_with_what_it_holds(link: Link, peer: Peer) -> None:
    beat = peer.wait_for(wire.Beat)

    assert (beat.worker, beat.generation, beat.token, beat.device_bytes, beat.jobs) == ("sam-0", 3, "secret", 7, ())
    assert isinstance(peer.heard[0], wire.Hello)
    assert peer.heard[0].serves == ("demo.count",)
    assert peer.heard[0].params == {"demo.count": {"type": "object"}}


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (wire.Accepted(**STAMP, job="j-1", attempt=1), "accepted"),
        (wire.Result(**STAMP, job="j-1", attempt=1, value={"x": 1}), "result"),
        (wire.Failed(**STAMP, job="j-1", attempt=1, reason="user_error"), "failed"),
    ],
)
def test_what_matters_is_sent_again_until_it_is_stored(link: Link, peer: Peer, message: wire.AnyFromWorker, what: str) -> None:
    link.post(message)
    for _ in range(3):
        assert peer.wait_for(type(message)) == message

    heard(link, peer, wire.Stored(job="j-1", attempt=1, what="something else"))
    assert peer.wait_for(type(message)) == message
    heard(link, peer, wire.Stored(job="j-1", attempt=1, what=what))
    seen = len([one for one in peer.heard if one == message])
    peer.wait_for(wire.Beat, so=lambda beat: beat.seq > 0)
    peer.wait_for(wire.Beat, so=lambda beat: beat.seq > 0)

    assert len([one for one in peer.heard if one == message]) == seen


def test_a_result_survives_a_supervisor_that_goes_and_comes_back(link: Link, peer: Peer) -> None:
    peer.close()
    result = wire.Result(**STAMP, job="j-1", attempt=1, value=5)
    link.post(result)

    peer.open()

    assert peer.wait_for(wire.Result) == result


def test_a_job_comes_once_however_often_it_is_sent(link: Link, peer: Peer) -> None:
    order = wire.JobOrder(job="j-1", attempt=1, kind="demo.count", params={"a": 1})
    for message in (order, order, wire.JobOrder(job="j-1", attempt=2, kind="demo.count")):
        peer.say(message)

    assert link.orders.get(timeout=WITHIN_S) == order
    second = link.orders.get(timeout=WITHIN_S)
    assert second is not None
    assert second.attempt == 2


def test_progress_rides_on_the_beats_and_the_last_of_it_is_sent_before_the_end(link: Link, peer: Peer, tmp_path: Path) -> None:
    report = report_of(tmp_path)
    link.open_report(report)
    report.progress(1, 4, phase="p")
    beat = peer.wait_for(wire.Beat, so=lambda beat: beat.jobs and beat.jobs[0].done == 1)
    report.progress(4, 4, phase="p")
    link.close_report(report)
    link.post(wire.Result(**STAMP, job="j-1", attempt=1))
    peer.wait_for(wire.Result)

    assert beat.jobs[0].phase == "p"
    beats = [message for message in peer.heard if isinstance(message, wire.Beat) and message.jobs]
    assert beats[-1].jobs[0].done == 4.0


def test_a_cancel_reaches_the_work_and_one_that_comes_early_is_remembered(link: Link, peer: Peer, tmp_path: Path) -> None:
    report = report_of(tmp_path)
    link.open_report(report)

    peer.say(wire.Cancel(job="j-1", attempt=1))
    peer.say(wire.Cancel(job="j-2", attempt=1))
    peer.say(wire.Drain())

    assert link.orders.get(timeout=WITHIN_S) is None
    with pytest.raises(JobCancelled):
        report.check()
    assert ("j-2", 1) in link.cancelled
    assert link.draining


def heard(link: Link, peer: Peer, *messages: wire.AnyToWorker) -> None:
    """Return once the link has obeyed these: a resync, which is answered, comes after them."""
    for message in (*messages, wire.Resync()):
        peer.say(message)
    peer.wait_for(wire.Hello)
    assert link._thread.is_alive()


def left(link: Link) -> bool:
    """Return whether its thread ends. `close` does not wait for it on a slow machine: a process that leaves must not hang."""
    link._thread.join(WITHIN_S)
    return not link._thread.is_alive()


@pytest.mark.parametrize("which", [{}, {"job": "j-1", "attempt": 1}])
def test_a_pause_and_its_resume_reach_the_work(link: Link, peer: Peer, tmp_path: Path, which: dict[str, Any]) -> None:
    report = report_of(tmp_path)
    link.open_report(report)

    heard(link, peer, wire.Pause(**which), wire.Resume(**which))

    report.check()


@pytest.mark.parametrize("which", [{"job": "j-2", "attempt": 1}, {"job": "j-1", "attempt": 2}])
def test_a_pause_is_for_one_attempt_of_one_job(link: Link, peer: Peer, tmp_path: Path, which: dict[str, Any]) -> None:
    report = report_of(tmp_path)
    link.open_report(report)

    heard(link, peer, wire.Pause(**which))

    report.check()


@pytest.mark.parametrize(("order", "ends"), [(wire.Pause(job="j-1", attempt=1), WorkPauses), (wire.Cancel(job="j-1", attempt=1), JobCancelled)])
@pytest.mark.parametrize("before", [True, False])
def test_an_order_counts_whether_it_comes_before_the_work_or_during_it(
    link: Link, peer: Peer, tmp_path: Path, *, before: bool, order: wire.AnyToWorker, ends: type[BaseException]
) -> None:
    report = report_of(tmp_path)
    if before:
        heard(link, peer, order)

    link.open_report(report)

    if not before:
        heard(link, peer, order)
    with pytest.raises(ends):
        report.check()


def test_a_change_after_a_rest_is_told_at_once_and_not_at_the_next_turn(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats_module, "BEAT_CHANGED_S", 0.0)  # it may look at any time, ...
    monkeypatch.setattr(beats_module, "BEAT_IDLE_S", 3600.0)  # ... and by itself it does so in an hour
    link = Link(Identity(endpoint=peer.endpoint, **STAMP), serves=(), device_bytes=lambda: None)
    link.start()
    peer.wait_for(wire.Beat)
    report = report_of(tmp_path)
    link.open_report(report)

    for frame in (1, 2, 3):
        report.progress(frame, 3, phase="p")
        peer.wait_for(wire.Beat, so=lambda beat: beat.jobs and beat.jobs[0].done == frame)  # noqa: B023  # called in this very turn

    link.close(wire.Bye(**STAMP))
    assert left(link)


def test_bytes_that_are_no_message_are_dropped(link: Link, peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    peer.socket.send_multipart((peer.line, b"\xc1garbage"))
    peer.say(wire.Drain())

    assert link.orders.get(timeout=WITHIN_S) is None
    assert "dropped a message from the supervisor" in capsys.readouterr().out


def test_a_resync_is_answered_with_hello_and_ready(link: Link, peer: Peer) -> None:
    link.ready("UNTRAINED NETWORK")
    assert peer.wait_for(wire.Ready).note == "UNTRAINED NETWORK"

    peer.say(wire.Resync())

    peer.wait_for(wire.Hello)
    assert peer.wait_for(wire.Ready).note == "UNTRAINED NETWORK"


def test_a_worker_without_a_supervisor_stops_its_work_and_says_so(link: Link, peer: Peer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = report_of(tmp_path)
    link.open_report(report)

    peer.say(wire.Welcome(limits={"orphan_after_s": 0.2}))

    assert link.orders.get(timeout=WITHIN_S) is None
    assert link.stopping == "no supervisor for 0.2 s"
    link.post(wire.Log(**STAMP, text="after"))  # sent by the thread that says it
    peer.wait_for(wire.Log)
    assert capfd.readouterr().err == "no supervisor for 0.2 s, which is orphan_after: the work at hand is saved, and this process ends\n"
    with pytest.raises(JobCancelled, match="no supervisor"):
        report.check()


def test_a_process_that_leaves_says_bye_and_waits_for_stored_only_so_long(link: Link, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FLUSH_S", 0.3)
    link.post(wire.Result(**STAMP, job="j-1", attempt=1))

    link.close(wire.Bye(**STAMP))

    assert left(link)
    peer.wait_for(wire.Bye)
