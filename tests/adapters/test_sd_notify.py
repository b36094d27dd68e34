"""What we tell systemd: the bytes on a real datagram socket, and nothing where nobody listens."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.adapters.sd_notify import Systemd


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket that stands for systemd's, and its name in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@warden-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0") if name.startswith("@") else name)
        listening.settimeout(5)
        yield listening, name


def test_every_notice_arrives_as_systemd_reads_it(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    systemd = Systemd.from_environ({"NOTIFY_SOCKET": name})

    sent = [systemd.ready(), systemd.status("2/2 workers up,\n gpu0 held"), systemd.reloading(17), systemd.watchdog(), systemd.stopping()]
    heard = [listening.recv(4096).decode() for _ in sent]
    systemd.close()

    assert all(sent)
    assert heard == ["READY=1", "STATUS=2/2 workers up, gpu0 held", "RELOADING=1\nMONOTONIC_USEC=17", "WATCHDOG=1", "STOPPING=1"]


def test_without_a_manager_nothing_happens() -> None:
    systemd = Systemd.from_environ({})

    assert not systemd.ready()
    assert not systemd.watchdog()
    assert systemd.watchdog_every_s is None


def test_a_manager_that_went_away_or_does_not_read_is_no_failure(tmp_path: Path) -> None:
    gone = Systemd.from_environ({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        unread = Systemd.from_environ({"NOTIFY_SOCKET": str(tmp_path / "deaf")})

        sent = [unread.watchdog() for _ in range(5000)]

    assert not gone.ready()
    assert sent[0]
    assert not sent[-1], "a full buffer drops the notice, and never waits"
    unread.close()
    gone.close()
    assert not gone.ready(), "after close it is a silent one"


@pytest.mark.parametrize(
    ("environ", "every_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time_and_only_by_whom_it_was_meant_for(environ: dict[str, str], every_s: float | None) -> None:
    assert Systemd.from_environ(environ).watchdog_every_s == every_s
