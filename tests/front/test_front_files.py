"""Files of jobs, and paths that jobs may name: nothing outside is ever read."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.front import FrontChild, fronts, until


@pytest.fixture(scope="module")
def job(front: FrontChild) -> str:
    """A job with files, links out of its folder, and a neighbour."""
    name, neighbour = front.warden.submit("demo.count"), front.warden.submit("demo.count")
    folder, other = (Path(front.warden.jobs[one]["dir"]) for one in (name, neighbour))
    (folder / "masks").mkdir()
    (folder / "masks" / "000001.json").write_text('{"frame": 1}')
    (folder / "results.csv").write_bytes(bytes(range(100)))
    (folder / "page.html").write_text("<script>1</script>")
    (folder / "empty").write_text("")
    (folder / "ü b.txt").write_text("umlaut")
    (other / "secret").write_text("secret")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "outside").symlink_to(other)
    (folder / "inside").symlink_to(folder / "masks")
    os.mkfifo(folder / "pipe")
    return name


def test_files_are_listed_without_links_and_pipes(http: httpx.Client, job: str) -> None:
    found = http.get(f"/v1/jobs/{job}/files").json()

    assert {one["name"]: one["size_bytes"] for one in found} == {"masks/000001.json": 12, "results.csv": 100, "page.html": 18, "empty": 0, "ü b.txt": 6}


def test_a_file_is_sent_and_a_browser_does_not_run_it(http: httpx.Client, job: str) -> None:
    answer = http.get(f"/v1/jobs/{job}/files/page.html")

    assert answer.text == "<script>1</script>"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert http.get(f"/v1/jobs/{job}/files/masks/000001.json").json() == {"frame": 1}
    assert http.get(f"/v1/jobs/{job}/files/ü b.txt").text == "umlaut"
    assert http.get(f"/v1/jobs/{job}/files/empty").content == b""


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [("bytes=10-19", 206, bytes(range(10, 20))), ("bytes=-5", 206, bytes(range(95, 100))), ("bytes=200-", 416, None), ("lines=1-2", 400, None)],
)
def test_a_part_of_a_file(http: httpx.Client, job: str, asked: str, status: int, body: bytes | None) -> None:
    answer = http.get(f"/v1/jobs/{job}/files/results.csv", headers={"Range": asked})

    assert answer.status_code == status
    if body is None:
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert answer.content == body


@pytest.mark.parametrize(
    "name",
    [
        "out", "outside/secret", "inside/000001.json", "pipe", "masks", "nothing", "..%2F..%2Fsecret", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd",
        "masks/../results.csv", "/etc/passwd", "%2Fetc%2Fpasswd", "masks//000001.json", "./results.csv", "a%00b", "a%0Ab", "x" * 300, "",
    ],
)  # fmt: skip
def test_nothing_outside_is_sent_and_nothing_by_a_link(front: FrontChild, job: str, name: str) -> None:
    with front.raw(f"GET /v1/jobs/{job}/files/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()) as one:  # httpx would tidy it up
        data = b"".join(iter(lambda: one.recv(65536), b""))

    assert data.startswith(b"HTTP/1.1 404"), data[:200]
    assert b"root:" not in data
    assert b"secret" not in data.partition(b"\r\n\r\n")[2].replace(name.encode(), b"").replace(b"/secret", b"")


def test_no_descriptor_is_left_open(front: FrontChild, http: httpx.Client, job: str) -> None:
    assert front.process is not None
    folder = Path(f"/proc/{front.process.pid}/fd")

    def opened() -> list[str]:
        found = []
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # closed between the look at the folder and the look at it
                found.append(str(path.readlink()))
        return [name for name in found if str(front.state_dir / "jobs") in name]

    for _ in range(20):
        http.get(f"/v1/jobs/{job}/files/results.csv")
        http.get(f"/v1/jobs/{job}/files/out")

    until(lambda: opened() == [], "the files that were sent are closed, which they are after their last byte")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, where links lead in and out, and `root`, which leads there."""
    room = tmp_path_factory.mktemp("room")
    data, outside = room / "data", room / "outside"
    for folder in (data, outside):
        folder.mkdir()
        (folder / "film.mp4").write_bytes(b"film")
    (data / "link.mp4").symlink_to(outside / "film.mp4")
    (data / "good.mp4").symlink_to(data / "film.mp4")
    (data / "up").symlink_to(room)
    (room / "root").symlink_to(data)
    return room


@pytest.fixture(scope="module")
def rooted(room: Path) -> Iterator[FrontChild]:
    """A front that may name files under the room's root."""
    with fronts(room / "f", allowed_roots=[str(room / "root")]) as one:
        yield one


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("{tmp}/data/film.mp4", 202),
        ("{tmp}/root/film.mp4", 202),
        ("{tmp}/data/good.mp4", 202),
        ("{var}/jobs/x/masks", 202),
        ("a word, and / another", 202),
        ("{tmp}/data/link.mp4", 422),
        ("{tmp}/data/up/outside/film.mp4", 422),
        ("{tmp}/data/../outside/film.mp4", 422),
        ("{tmp}/database/film.mp4", 422),
        ("{tmp}/outside/film.mp4", 422),
        ("/etc/passwd", 422),
        ("~/film.mp4", 422),
        ("~nobody-here/film.mp4", 422),
        ("../../etc/passwd", 422),
        ("/" + "x" * 5000, 422),
        ("/\0", 422),
    ],
)
def test_a_path_in_parameters_must_lie_under_a_root(rooted: FrontChild, room: Path, value: str, status: int) -> None:
    text = value.format(tmp=room, var=rooted.state_dir) if "{" in value else value
    wrapped: list[Any] = [{"video": text}, {"image": ["fine", text]}, {"deep": [{"er": {"path": text}}]}, {text: 1}]

    with rooted.client() as http:
        assert [http.post("/v1/jobs", json={"kind": "demo.count", "params": params}).status_code for params in wrapped] == [status] * 4
