"""The front's listening sockets: bound, safe, handed down, and each trouble a sentence."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.adapters.listening import Listening, address_of
from supervisor.errors import StateError


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.mark.parametrize(
    ("bind", "host", "url"),
    [
        ("127.0.0.1:0", "127.0.0.1", "http://127.0.0.1:"),
        ("localhost:0", "127.0.0.1", "http://127.0.0.1:"),
        ("0.0.0.0:0", "127.0.0.1", "http://127.0.0.1:"),
        ("[::1]:0", "::1", "http://[::1]:"),
        ("[::]:0", "::1", "http://[::1]:"),
    ],
)
def test_a_caller_is_let_in_before_anybody_serves(bind: str, host: str, url: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    listening = Listening(bind)

    caller = socket.create_connection((host, port_of(listening.url)), timeout=10)

    assert listening.url.startswith(url)
    assert len(listening.descriptors) == 1
    caller.close()
    listening.close()


def test_a_port_is_free_again_at_once() -> None:
    first = Listening("127.0.0.1:0")
    port = port_of(first.url)
    caller = socket.create_connection(("127.0.0.1", port), timeout=10)
    first.close()  # the connection stays in the kernel's books for a minute

    second = Listening(f"127.0.0.1:{port}")

    assert second.url == f"http://127.0.0.1:{port}"
    caller.close()
    second.close()


def test_descriptors_are_not_inherited_unless_handed_down(tmp_path: Path) -> None:
    listening = Listening("127.0.0.1:0", str(tmp_path / "api.sock"))
    code = "import socket,sys; print([socket.socket(fileno=int(n)).getsockname() for n in sys.argv[1:]])"
    numbers = [str(number) for number in listening.descriptors]

    assert not any(os.get_inheritable(number) for number in listening.descriptors)
    given = subprocess.run([sys.executable, "-c", code, *numbers], pass_fds=listening.descriptors, capture_output=True, text=True, check=True)

    assert given.stdout.strip() == str([("127.0.0.1", port_of(listening.url)), str(tmp_path / "api.sock")])
    listening.close()


def test_off_is_no_tcp_socket(tmp_path: Path) -> None:
    nothing, unix = Listening("off"), Listening("off", str(tmp_path / "api.sock"))

    assert (nothing.url, nothing.descriptors, unix.url, len(unix.descriptors)) == ("", (), "", 1)
    nothing.close()
    unix.close()


@pytest.mark.parametrize("bind", ["", "8650", ":8650", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:-1", "127.0.0.1:65536", "127.0.0.1:٣"])
@pytest.mark.parametrize("wrap", ["{}", " {}", "[{}]:0", "[{}"])
def test_a_bad_address_is_refused_with_the_form(bind: str, wrap: str) -> None:
    with pytest.raises(StateError, match=r'^api.bind = ".*" must be "ADDRESS:PORT", such as "127.0.0.1:8650"'):
        Listening(wrap.format(bind))


@pytest.mark.parametrize("bind", ["example.org:80", "::1:8650", "[127.0.0.1]:80", "256.0.0.1:80", "[::g]:80"])
def test_a_name_or_what_is_no_address_is_refused_with_the_form(bind: str) -> None:
    with pytest.raises(ValueError, match=r'must be "ADDRESS:PORT"'):
        address_of(bind)


def test_a_taken_port_is_a_sentence() -> None:
    first = Listening("127.0.0.1:0")

    with pytest.raises(StateError, match=r'api.bind = "127.0.0.1:\d+": Address already in use: another program listens on port \d+ .*: end that one, or take'):
        Listening(f"127.0.0.1:{port_of(first.url)}")

    first.close()


def test_an_address_of_another_machine_is_a_sentence() -> None:
    with pytest.raises(StateError, match=r"Cannot assign requested address: 192.0.2.1 is no address of this machine"):
        Listening("192.0.2.1:0")


def test_a_port_without_permission_is_a_sentence() -> None:
    code = """
import os, sys
from supervisor.adapters.listening import Listening
from supervisor.errors import StateError
if os.geteuid() == 0:
    os.setuid(65534)
try:
    Listening("127.0.0.1:1")
except StateError as error:
    print(error)
"""
    first_free = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first_free <= 1:
        pytest.skip("every port is free for all here")

    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)

    assert run.stdout.strip().endswith("Permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE: take a higher port")


# --- the socket file ---


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o117])
def test_a_socket_file_is_for_its_user_and_group_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "api.sock"
    before = os.umask(umask)
    try:
        listening = Listening("off", str(path))
    finally:
        left = os.umask(before)

    assert left == umask
    assert stat.S_IMODE(path.lstat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    listening.close()
    assert not path.exists()


def test_a_dead_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    listening = Listening("off", str(path))

    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    listening.close()


def test_a_living_socket_is_refused_and_goes_on_living_also_when_its_queue_is_full(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    first = Listening("off", str(path))
    with pytest.raises(StateError, match=r'api.sock": another program listens there: end that one, or take another path'):
        Listening("off", str(path))
    first.close()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as caller:
        busy.bind(str(path))
        busy.listen(0)
        caller.connect(str(path))

        with pytest.raises(StateError, match="another program listens there"):
            Listening("off", str(path))

        assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "api.sock"
    if kind == "file":
        path.write_text("x")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")

    with pytest.raises(StateError, match=r"is there and no socket: it is left alone; remove it, or take another path"):
        Listening("off", str(path))

    assert path.lstat()


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="No such file or directory: its folder must be there and writable by this user"):
        Listening("off", str(tmp_path / "nowhere" / "api.sock"))


def test_a_path_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"has \d+ bytes, and a socket's path has at most 107: take a shorter one"):
        Listening("off", str(tmp_path / ("x" * 120)))


def test_trouble_with_the_second_socket_closes_the_first(tmp_path: Path) -> None:
    port = port_of((probe := Listening("127.0.0.1:0")).url)
    probe.close()

    with pytest.raises(StateError, match=r"api.socket"):
        Listening(f"127.0.0.1:{port}", str(tmp_path / "nowhere" / "api.sock"))

    Listening(f"127.0.0.1:{port}").close()


def test_a_socket_file_that_somebody_replaced_is_theirs(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    listening = Listening("off", str(path))
    other = tmp_path / "other"
    other.write_text("theirs")
    other.rename(path)

    listening.close()

    assert path.read_text() == "theirs"
