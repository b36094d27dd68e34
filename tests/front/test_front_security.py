"""Who may come in: tokens and their scopes, the name they call us by, the page that sends them, the socket they come on."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from supervisor.front.tokens import TokenFile, read_tokens
from tests.front.conftest import MakeFront
from tests.support.front import ROOT, WITHIN_S, FrontChild

TOKENS = "r-token read\no-token operate  # the review tool\na-token admin\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> object:
    from tests.support.front import fronts

    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text(TOKENS)
    with fronts(folder / "f", token_file=str(folder / "tokens"), unix=True) as one:
        yield one


@pytest.mark.parametrize(
    ("token", "method", "path", "status"),
    [
        (None, "GET", "/healthz", 200),
        (None, "GET", "/v1/status", 401),
        (None, "GET", "/metrics", 401),
        (None, "GET", "/openapi.json", 401),
        ("wrong", "GET", "/v1/status", 401),
        ("R-token", "GET", "/v1/status", 401),
        ("r-toke", "GET", "/v1/status", 401),
        ("r-token admin", "GET", "/v1/status", 401),
        ("x" * 6000, "GET", "/v1/status", 401),
        ("r-token", "GET", "/v1/status", 200),
        ("r-token", "POST", "/v1/jobs", 403),
        ("o-token", "GET", "/v1/status", 200),
        ("o-token", "POST", "/v1/jobs", 202),
        ("o-token", "POST", "/v1/workers/sam-0/stop", 403),
        ("o-token", "POST", "/v1/hold", 403),
        ("a-token", "POST", "/v1/jobs", 202),
        ("a-token", "POST", "/v1/workers/sam-0/stop", 202),
    ],
)
def test_a_token_opens_what_its_scope_says(guarded: FrontChild, token: str | None, method: str, path: str, status: int) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = {"kind": "demo.count"} if path == "/v1/jobs" else None

    with guarded.client() as http:
        answer = http.request(method, path, json=body, headers=headers)

    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["reason"] == "unauthorized"


def test_another_scheme_is_no_token(guarded: FrontChild) -> None:
    with guarded.client() as http:
        assert http.get("/v1/status", headers={"Authorization": "Basic a-token"}).status_code == 401


def test_the_unix_socket_needs_no_token(guarded: FrontChild) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(guarded.unix_path)), base_url="http://anything", timeout=WITHIN_S) as http:
        assert http.get("/v1/status").status_code == 200
        assert http.post("/v1/workers/sam-0/stop").status_code == 202

    assert [by for op, _args, by in guarded.warden.asked if op == "workers.stop"][-1] == "http unix socket"


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:8650", 200), ("127.0.0.2", 200)],
)
def test_on_loopback_only_its_own_names_are_answered(http: httpx.Client, host: str, status: int) -> None:
    assert http.get("/v1/status", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://127.0.0.1:1", 403), ("file://", 403), ("http://HOST", 202), (None, 202)],
)
def test_another_sites_page_changes_nothing(front: FrontChild, http: httpx.Client, origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"Origin": origin.replace("HOST", f"127.0.0.1:{front.port}")}

    assert http.post("/v1/jobs", json={"kind": "demo.count"}, headers=headers).status_code == status


def test_bytes_that_are_no_http_get_a_problem(front: FrontChild) -> None:
    with front.raw(b"\x16\x03\x01\x02 what is this\r\n\r\n") as one:
        data = b"".join(iter(lambda: one.recv(65536), b""))

    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_over_the_limit_is_refused_before_it_is_read(front: FrontChild, method: str) -> None:
    head = f"{method} /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
    with front.raw(head.encode()) as one:
        assert one.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_without_a_length_is_cut_at_the_limit(front: FrontChild, http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", content=(b" " * 65536 for _ in range(40)), headers={"Content-Type": "application/json"})

    assert answer.status_code == 413


def refused_start(tmp_path: Path, **options: object) -> "subprocess.CompletedProcess[str]":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        env = {**os.environ, "WARDEN_STATE_DIR": str(tmp_path), "WARDEN_OPTIONS": json.dumps(options), "WARDEN_LISTEN": str(number), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-P", "-m", "supervisor.front"], env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False, pass_fds=[number]
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bind": "0.0.0.0:8650"}, "not a loopback address and no token is set"),
        ({"bind": "gpu-box:8650"}, "not a loopback address and no token is set"),
        ({"token_file": "/nowhere/tokens"}, "api.token_file = '/nowhere/tokens' cannot be used"),
        ({"color": 1}, "WARDEN_OPTIONS"),
    ],
)
def test_a_front_that_would_be_open_or_is_told_nonsense_does_not_start(tmp_path: Path, options: dict[str, object], says: str) -> None:
    ended = refused_start(tmp_path, **options)

    assert ended.returncode == 78
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "a b\n", "token read more\n"])
def test_a_token_file_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens").write_text(text)

    ended = refused_start(tmp_path, token_file=str(tmp_path / "tokens"))

    assert (ended.returncode, "Traceback" in ended.stderr) == (78, False)


def test_a_bare_token_may_do_everything(tmp_path: Path, make_front: MakeFront) -> None:
    (tmp_path / "tokens").write_text("only-one\n")
    front = make_front(token_file=str(tmp_path / "tokens"))

    with front.client(headers={"Authorization": "bearer only-one"}) as http:
        assert http.post("/v1/workers/sam-0/stop").status_code == 202


class Edited:
    """A token file under the eyes of a front, and its clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_s = 0.0
        path.write_text("one admin\ntwo read\n")
        self.tokens = TokenFile(path, read_tokens(path), clock_s=lambda: self.now_s)
        self.good()

    def good(self) -> set[str]:
        """Return which of some tokens are good now."""
        return {one for one in ("one", "two", "three") if self.tokens.now().scope_of(one) is not None}


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    return Edited(tmp_path / "tokens")


def test_an_edited_token_file_counts_after_a_second(edited: Edited) -> None:
    edited.path.write_text("two read\nthree admin\n")

    edited.now_s = 0.9
    before = edited.good()
    edited.now_s = 1.0

    assert (before, edited.good()) == ({"one", "two"}, {"two", "three"})


def test_a_token_file_that_was_replaced_counts(edited: Edited) -> None:
    new = edited.path.with_name("new")
    new.write_text("six admin\ntwo read\n")  # as long as the one before
    new.replace(edited.path)

    edited.now_s = 1.0

    assert edited.good() == {"two"}


@pytest.mark.parametrize("how", ["missing", "empty", "broken", "a folder", "binary"])
def test_a_token_file_that_breaks_neither_opens_the_door_nor_shuts_it_and_is_said_once(edited: Edited, caplog: pytest.LogCaptureFixture, how: str) -> None:
    edited.path.unlink()
    if how == "a folder":
        edited.path.mkdir()
    elif how != "missing":
        edited.path.write_bytes({"empty": b"", "broken": b"one emperor\n", "binary": b"\xff\xfe\n"}[how])

    good = []
    for second in range(1, 4):
        edited.now_s = float(second)
        good.append(edited.good())
    if how == "a folder":
        edited.path.rmdir()
    edited.path.write_text("three admin\n")
    edited.now_s = 4.0

    assert good == [{"one", "two"}] * 3
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert edited.good() == {"three"}


def test_a_token_that_is_taken_out_of_the_file_is_good_no_longer(tmp_path: Path, make_front: MakeFront) -> None:
    path = tmp_path / "tokens"
    path.write_text("old admin\n")
    front = make_front(token_file=str(path))
    with front.client() as http:

        def status(token: str) -> int:
            return http.get("/v1/status", headers={"Authorization": f"Bearer {token}"}).status_code

        before = status("old"), status("new")
        path.write_text("new admin\n")
        while status("new") == 401:
            pass
        after = status("old"), status("new")

    assert (before, after) == ((200, 401), (401, 200))
    assert "was read again" in front.said()
