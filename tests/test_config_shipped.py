"""The shipped supervisor.toml tells the truth about the code's defaults, and holds every key that acts."""

import re
import subprocess
import sys
from pathlib import Path

import tomli

from supervisor.config import load, spelled
from supervisor.core.limits import Limits, WorkerSpec

SHIPPED = Path(__file__).parent.parent / "supervisor.toml"
REQUIRED = {"command", "serves", "gpu", "priority", "resident", "options"}
COMMENTED = re.compile(r"^# (\[schedules|[a-z_]+ = )", re.MULTILINE)


def test_the_shipped_file_is_accepted() -> None:
    assert set(load(SHIPPED, {}).limits.workers) == {"sam", "yolo"}


def test_each_value_and_each_comment_is_the_default_of_the_code(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text(COMMENTED.sub(r"\1", SHIPPED.read_text()))

    loaded = load(path, {})
    given = spelled(loaded.limits)
    default = spelled(Limits(workers={"sam": WorkerSpec(command=("x",))}))

    assert set(loaded.limits.schedules) == {"nightly"}
    for key, value in default.items():
        if key in {"supervisor.state_dir", "supervisor.log_dir"}:
            assert given[key] == f'"{tmp_path}/{value.strip(chr(34))}"'
        elif key.removeprefix("workers.sam.") not in REQUIRED:
            assert given[key] == value, key
        shown = loaded.origins[key].startswith("file:")
        assert shown, f"{key} acts, but the shipped file does not show it"


def test_the_workers_of_the_shipped_file_are_those_of_the_contract() -> None:
    workers = tomli.loads(SHIPPED.read_text())["workers"]
    shared = {"weights_dir": "weights", "allow_download": False, "allow_untrained": False, "device": "auto"}

    assert workers == {
        "sam": {
            "command": ["{python}", "-P", "-m", "workers.sam"],
            "serves": ["sam.segment", "sam.propagate"],
            "gpu": "14GiB",
            "priority": 10,
            "resident": True,
            "options": shared | {"weights": "sam2.1_t.pt", "image_size": 1024},
        },
        "yolo": {
            "command": ["{python}", "-P", "-m", "workers.yolo"],
            "serves": ["yolo.train", "yolo.predict"],
            "gpu": "8GiB",
            "priority": 15,
            "resident": False,
            "options": shared | {"weights": "yolo11n.pt", "image_size": 640},
        },
    }


def test_each_key_of_the_shipped_file_has_its_reason() -> None:
    for number, line in enumerate(SHIPPED.read_text().split("\n"), 1):
        key = re.match(r"(?:# )?([a-z_]+) = ", line)
        if key and key[1] not in {"weights_dir", "device", "weights", "image_size", "command", "serves", "gpu", "priority"} | {
            "allow_download",
            "allow_untrained",
        }:
            assert re.search(r" # \S", line), f"line {number} says nothing about {key[1]}"


def test_reading_the_configuration_loads_no_heavy_library() -> None:
    code = "import sys, supervisor.config; print(*{'pydantic', 'click', 'rich', 'asyncio', 'zmq', 'logging', 'structlog', 'tomlkit'} & set(sys.modules))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SHIPPED.parent)

    assert found.stdout.split() == []
