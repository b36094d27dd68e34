"""Each `$ curl` line of the README is run as it stands there, and answered well."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.front.test_front_openapi import DOCUMENT
from tests.support.front import ROOT, WITHIN_S, FrontChild, fronts

README = (ROOT / "README.md").read_text()
LINES = [line[2:] for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line.startswith("$ curl ")]
STATUS = {
    "/pause": "running", "/resume": "paused", "/retry": "completed", "/events": "completed", "/cancel": "running",
}  # fmt: skip
"""In which status a job must be for the line that ends its path so."""

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: install it with apt-get install curl")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("film.mp4", "street.png", "street/data.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"data")
    return folder


@pytest.fixture(scope="module")
def readme_front(tmp_path_factory: pytest.TempPathFactory, data: Path) -> object:
    with fronts(tmp_path_factory.mktemp("readme"), allowed_roots=[str(data)]) as one:
        yield one


def names(front: FrontChild, line: str, data: Path) -> dict[str, str]:
    """Return the variables of the line: a job in the right status with a file, a session with prompts and masks."""
    status = next((status for end, status in STATUS.items() if end in line), "queued")
    job = front.warden.submit("yolo.train", status=status)
    front.warden.change(job, "job_completed" if status == "completed" else "job_moved", status=status)
    results = front.state_dir / "jobs" / job / "run" / "results.csv"  # where workers.yolo leaves it
    results.parent.mkdir()
    results.write_text("epoch\n")
    with front.client() as http:
        session = http.post("/sessions", json={"path": str(data / "film.mp4")}).json()["session_id"]
        http.post(f"/sessions/{session}/prompts", json={"prompts": [{"box": [0, 0, 1, 1]}]})
        if "/frame-masks" in line or "/push" in line:
            made = http.post("/propagate", json={"session_id": session}).json()["job_id"]
            masks = front.state_dir / "jobs" / made / "masks"
            masks.mkdir()
            (masks / "000000.json").write_text('{"frame": 0, "size": [1, 1], "objects": {"1": {"size": [1, 1], "counts": "1"}}}')
    return {"JOB": job, "SESSION": session}


def run(command: str, folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=WITHIN_S, check=False)


@pytest.mark.parametrize("line", LINES)
def test_an_example_of_the_readme_works(readme_front: FrontChild, data: Path, line: str) -> None:
    command = line.replace("http://127.0.0.1:8650", readme_front.url).replace("/data/", f"{data}/") + " -sS --write-out '\nstatus %{http_code}\n'"
    env = {**os.environ, **names(readme_front, line, data)}

    ran = run(command, data, env)
    while "--max-time" in line and "status 000" in ran.stdout:  # the machine was so slow that the time of the example was over before the answer
        ran = run(command, data, env)

    assert re.search(r"^status 2\d\d$", ran.stdout, re.MULTILINE), f"{command}\n{ran.stdout}\n{ran.stderr}"
    assert ran.returncode == (28 if "--max-time" in line else 0), ran.stderr


def test_every_route_has_an_example() -> None:
    asked = {re.sub(r"\?.*", "", re.search(r"http://127.0.0.1:8650([^'\" ]*)", line)[1]) for line in LINES}  # type: ignore[index]
    shapes = {re.compile(re.sub(r"\\{[a-z]+\\}", ".+", re.escape(path)) + "$"): path for path in DOCUMENT["paths"]}

    missing = [path for shape, path in shapes.items() if not any(shape.match(one) for one in asked)]

    assert missing == []
