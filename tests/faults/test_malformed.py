"""Bytes that are no message, and messages that nobody should believe: dropped and counted, and everything goes on."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from supervisor import control, wire
from tests.support.live import ONE_WORKER, Live, MakeLive

pytestmark = [pytest.mark.faults, pytest.mark.slow]

GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\1NULL" + b"\0" * 48


def plain(warden: Live, name: str, data: bytes) -> None:
    """Write bytes into a socket that expects ZMTP."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(warden.state_dir / f"{name}.sock"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            one.sendall(data)


@contextlib.contextmanager
def dealer(warden: Live, name: str, identity: bytes = b"") -> Iterator["zmq.Socket[bytes]"]:
    """Return a ZeroMQ client of one of the two sockets."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as one:
        one.setsockopt(zmq.LINGER, 2000)
        if identity:
            one.setsockopt(zmq.ROUTING_ID, identity)
        one.connect(f"ipc://{warden.state_dir / f'{name}.sock'}")
        yield one


def record(warden: Live) -> dict[str, Any]:
    """Return what is written down of sam-0, its token above all."""
    found: dict[str, Any] = json.loads((warden.state_dir / "run" / "sam-0.json").read_text())
    return found


def dropped(warden: Live) -> int:
    """Return how many messages were not believed."""
    return warden.status().supervisor.dropped_messages


def unharmed(warden: Live) -> None:
    """Prove that the supervisor still works, with the same worker process."""
    assert warden.worker("sam-0").generation == 1
    assert warden.wait_for_job(warden.submit(steps=1)).status == "completed"


@pytest.mark.parametrize("name", ["workers", "control"])
@pytest.mark.parametrize("data", [b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 5000, GREETING + b"\xff" * 500, GREETING[:30], b"A" * 2**20])
def test_bytes_that_are_not_zmtp_harm_nobody(live: MakeLive, name: str, data: bytes) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")

    for _ in range(20):
        plain(warden, name, data)

    unharmed(warden)


def test_messages_to_the_workers_socket_that_are_none_are_dropped_and_counted(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    garbage = [
        b"",
        b"\xc1",
        b"\x93\1\2\3",
        msgspec.msgpack.encode({"t": "nonsense"}),
        msgspec.msgpack.encode({"t": "beat", "worker": 5}),
        b"\x91" * 100_000,
        wire.encode(wire.Ready(worker="sam-0", generation=1, token="t", v=7)),
        b"\x81\xa1t\xa4beat" + b"\xff" * 100,
    ]

    with dealer(warden, "workers") as one:
        for data in garbage:
            one.send(data)
        one.send_multipart([b"a", b"b", b"c"])

        assert warden.holds(lambda: dropped(warden) == len(garbage) + 1), dropped(warden)

    unharmed(warden)


def test_a_stranger_is_not_believed_whatever_name_it_gives(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(steps=80, step_s=0.05)  # it must outlast the lies: those about a job that ended are no lies
    token = record(warden)["token"]
    lies = [
        wire.Result(worker="sam-0", generation=1, token="wrong", job=name, attempt=1, value=1),
        wire.Result(worker="sam-0", generation=2, token=token, job=name, attempt=1, value=1),
        wire.Result(worker="sam-0", generation=0, token=token, job=name, attempt=1, value=1),
        wire.Result(worker="nobody-0", generation=1, token=token, job=name, attempt=1, value=1),
    ]

    with dealer(warden, "workers") as one:
        for lie in lies:
            one.send(wire.encode(lie))
        assert warden.holds(lambda: dropped(warden) == len(lies))
        one.send(wire.encode(wire.Result(worker="sam-0", generation=1, token=token, job="j-unknown", attempt=1)))
        one.send(wire.encode(wire.Result(worker="sam-0", generation=1, token=token, job=name, attempt=9)))
        assert warden.holds(lambda: dropped(warden) == len(lies) + 2)

    assert warden.wait_for_job(name).result["counted"] == 80


def test_a_stranger_under_a_workers_name_does_not_get_its_line(live: MakeLive) -> None:
    warden = live('[watchdog]\nsilent_after = "10s"\n' + ONE_WORKER)
    warden.wait_for_event("worker_ready", worker="sam-0")
    name = warden.submit(steps=60, step_s=0.1)
    warden.wait_for_job(name, "running")

    with dealer(warden, "workers", b"sam-0#1") as one:
        one.send(wire.encode(wire.Hello(worker="sam-0", generation=1, token="wrong", pid=1)))
        assert warden.holds(lambda: dropped(warden) >= 1)
        assert warden.wait_for_job(name).result["counted"] == 60
        assert not one.poll(0)

    unharmed(warden)


def test_a_message_of_seventeen_mebibytes_ends_its_connection_and_nothing_else(live: MakeLive) -> None:
    warden = live()
    warden.wait_for_event("worker_ready", worker="sam-0")

    for name in ("workers", "control"):
        with dealer(warden, name) as one:
            one.setsockopt(zmq.LINGER, 0)
            one.send(b"x" * (17 * 2**20))
            unharmed(warden)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a request"),
        (b"{", "not a request"),
        (b"\xff\xfe", "not a request"),
        (b"[]", "not a request"),
        (b'{"id": "a"}', "missing required field `op`"),
        (b'{"id": "a", "op": "status", "extra": 1}', "unknown field `extra`"),
        (b'{"id": "a", "op": "status", "v": 9}', "protocol version 9 found, 1 expected"),
        (b'{"id": "a", "op": "statsu"}', "did you mean status?"),
        (b'{"id": "a", "op": "jobs.show", "args": {"job": 5}}', "Expected `str`, got `int`"),
        (b'{"id": "a", "op": "jobs.show", "args": {}}', "missing required field `job`"),
        (b'{"id": "a", "op": "status", "args": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "not a request"),
    ],
)
def test_a_request_that_is_none_is_answered_with_a_sentence(live: MakeLive, data: bytes, says: str) -> None:
    warden = live("")

    with dealer(warden, "control") as one:
        one.send(data)
        assert one.poll(20_000)
        answer = msgspec.json.decode(one.recv(), type=control.Answer)

    assert answer.error is not None
    assert says in answer.error.message


@pytest.mark.parametrize("depth", [50, 150, *range(900, 1000, 12)])
def test_parameters_nested_at_the_edge_of_what_can_be_read_do_not_end_the_supervisor(live: MakeLive, depth: int, request: pytest.FixtureRequest) -> None:
    warden = request.getfixturevalue("one_for_all")

    with dealer(warden, "control") as one:
        one.send(b'{"id": "a", "op": "jobs.submit", "args": {"kind": "demo.none", "params": {"x": ' + b"[" * depth + b"]" * depth + b"}}}")
        assert one.poll(20_000)
        answer = msgspec.json.decode(one.recv(), type=control.Answer)

    assert answer.ok == (depth < 100)
    assert answer.ok or answer.error is not None
    assert not warden.ended()


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from tests.support.live import lives

    with lives(tmp_path_factory.mktemp("deep")) as make:
        yield make(ONE_WORKER.replace("demo.count", "demo.none") + "autostart = false\n")


PLAYER = """
import os, sys, time, zmq
sys.path.insert(0, os.environ["ROOT"])
from supervisor import wire
stamp = {"worker": os.environ["WARDEN_WORKER"], "generation": int(os.environ["WARDEN_GENERATION"]), "token": os.environ["WARDEN_TOKEN"]}
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, "{worker}#{generation}".format(**stamp).encode())  # as others may: the SDK adds what nobody can guess
socket.connect(os.environ["WARDEN_ENDPOINT"])
send = lambda message: socket.send(wire.encode(message))
def send_until_stored(message, what):
    send(message)
    while True:
        if not socket.poll(500):  # a report that came while the one before it was being written is not answered
            send(message)
        elif isinstance(answer := wire.decode_to_worker(socket.recv()), wire.Stored) and answer.what == what:
            return print("stored", what, flush=True)
send(wire.Hello(**stamp, pid=os.getpid()))
send(wire.Ready(**stamp))
while True:
    if not socket.poll(500):
        send(wire.Beat(**stamp, seq=0))
        continue
    message = wire.decode_to_worker(socket.recv())
    if isinstance(message, wire.JobOrder):
        named = {**stamp, "job": message.job, "attempt": message.attempt}
        send(wire.Accepted(**named))
        PLAY
    elif isinstance(message, wire.Stored):
        print("stored", message.what, flush=True)
    elif isinstance(message, wire.Drain):
        sys.exit(0)
"""


def played(live: MakeLive, tmp_path: Path, play: str) -> Live:
    """Return a supervisor whose worker is a program of a few lines that speaks the protocol by itself."""
    script = tmp_path / "player.py"
    script.write_text(PLAYER.replace("PLAY", play))
    root = Path(__file__).parent.parent.parent
    command = json.dumps(["{python}", "-P", str(script)])
    return live(f'[workers.sam]\ncommand = {command}\nserves = ["demo.count"]\nenv = {{ ROOT = "{root}" }}\n')


def test_a_result_that_is_sent_again_is_answered_again_and_kept_once(live: MakeLive, tmp_path: Path) -> None:
    warden = played(live, tmp_path, "[send_until_stored(wire.Result(**named, value=number), 'result') for number in range(3)]")

    job = warden.wait_for_job(warden.submit())

    assert (job.status, job.result) == ("completed", 0)
    log = warden.log_dir / "workers" / "sam-0.log"
    assert warden.holds(lambda: log.read_text().count("stored result") == 3), log.read_text()
    assert warden.job(job.id).result == 0
    assert len(warden.told("job_completed", job=job.id)) == 1


@pytest.mark.parametrize(
    "value",
    ["__import__('msgspec').msgpack.Ext(5, b'x')", "{(1, 2): 3}", "__import__('functools').reduce(lambda inner, _: [inner], range(300), 1)"],
)
def test_a_result_that_json_cannot_hold_fails_its_job_and_not_the_supervisor(live: MakeLive, tmp_path: Path, value: str) -> None:
    warden = played(live, tmp_path, f"send(wire.Result(**named, value={value}))")

    job = warden.wait_for_job(warden.submit())

    assert (job.status, job.reason) == ("failed", "user_error")
    assert "its result cannot be kept: it" in job.message
    assert not warden.ended()


def test_a_loss_that_is_not_a_number_harms_neither_the_screen_nor_the_next_run(live: MakeLive, tmp_path: Path) -> None:
    beat = "wire.JobBeat(job=message.job, attempt=message.attempt, done=float('inf'), total=float('nan'), metrics={'loss': float('nan'), 'lr': 0.5})"
    warden = played(live, tmp_path, f"[send(wire.Beat(**stamp, seq=1, jobs=({beat},))) for _ in range(2)]")
    name = warden.submit()
    assert warden.holds(lambda: warden.job(name).metrics == {"lr": 0.5})

    assert warden.cli("jobs", "show", name).returncode == 0
    warden.kill()
    warden.start()

    assert warden.job(name).status in {"queued", "preparing", "running"}
