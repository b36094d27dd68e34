"""ultralytics stays off the network: settings and fonts on disk, and no attempt in a real training."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("matplotlib") is None:
    pytest.skip("needs the fonts of matplotlib", allow_module_level=True)

needs_ultralytics = pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="needs the extra models")

# A hook that sees each socket call of the interpreter, before anything else is imported. AF_UNIX (1) and asyncio's own pairs are no network.
WATCHED = """
import sys
tries = []
def hook(event, args):
    if event in {"urllib.Request", *(f"socket.{name}" for name in ("getaddrinfo", "gethostbyname", "gethostbyaddr", "getnameinfo", "connect", "sendto"))}:
        tries.append(f"{event} {args!r}")
    if event in {"subprocess.Popen", "os.system"} and "pip" in repr(args):
        tries.append(f"{event} {args!r}")
sys.addaudithook(hook)
"""

WITHIN_S = 280

TRAIN_AND_PREDICT = """
import json, os
from pathlib import Path
from workers import samples
from workers.report import Job, Report
from workers.yolo.params import Options, PredictParams, TrainParams
from workers.yolo.worker import Yolo
root = Path(os.environ["ROOT"])
worker = Yolo()
worker.name, worker.state_dir, worker.config_dir = "yolo-0", root / "var", root
worker.options = Options(allow_untrained=True, image_size=64, device="cpu")
worker.load()
data = samples.dataset(root / "data", train=8, val=4)
def run(kind, params):
    folder = root / kind
    folder.mkdir()
    job = Job(id=kind, attempt=1, kind=kind, params=params, dir=folder)
    return worker.run(job, Report(job))
trained = run("yolo.train", TrainParams(data=str(data), epochs=1, batch=4))
run("yolo.predict", PredictParams(image=str(root / "data/images/val/bus-000.jpg"), weights=trained["weights"]))
(root / "tries.json").write_text(json.dumps(tries))
"""


def run_python(source: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run source in a fresh interpreter that knows this checkout, without the variables under test."""
    here = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", source],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(here), "HOME": environment.get("ROOT", "/nonexistent"), "OMP_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )


def test_prepare_writes_settings_and_fonts_into_the_folder_alone(tmp_path: Path) -> None:
    source = f"from pathlib import Path; from workers.offline import prepare; prepare(Path({str(tmp_path / 'here')!r}), allow_download=False)"

    done = run_python(source + "; import os, json; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('YOLO')}))")

    assert done.returncode == 0, done.stderr
    environment = json.loads(done.stdout)
    assert environment == {"YOLO_CONFIG_DIR": str(tmp_path / "here"), "YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "1"}
    settings = json.loads((tmp_path / "here/Ultralytics/settings.json").read_text())
    assert settings["sync"] is False
    assert (tmp_path / "here/Ultralytics/Arial.ttf").stat().st_size > 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_prepare_leaves_the_online_check_open_where_downloads_are_allowed(tmp_path: Path) -> None:
    source = f"from pathlib import Path; from workers.offline import prepare; prepare(Path({str(tmp_path)!r}), allow_download=True)"

    done = run_python(source + "; import os; print(os.environ.get('YOLO_OFFLINE'), os.environ['YOLO_AUTOINSTALL'])", YOLO_OFFLINE="1")

    assert done.stdout.split() == ["None", "false"], done.stderr


def test_prepare_keeps_settings_that_are_there(tmp_path: Path) -> None:
    source = f"from pathlib import Path; from workers.offline import prepare; prepare(Path({str(tmp_path)!r}), allow_download=False)"
    run_python(source)
    (tmp_path / "Ultralytics/settings.json").write_text('{"sync": false, "runs_dir": "/elsewhere"}')

    done = run_python(source)

    assert done.returncode == 0, done.stderr
    assert "/elsewhere" in (tmp_path / "Ultralytics/settings.json").read_text()


def test_prepare_refuses_to_come_after_ultralytics(tmp_path: Path) -> None:
    source = "import sys, types; sys.modules['ultralytics'] = types.ModuleType('ultralytics')\nfrom pathlib import Path\nfrom workers.offline import prepare\n"

    done = run_python(source + f"prepare(Path({str(tmp_path)!r}), allow_download=False)")

    assert "RuntimeError" in done.stderr
    assert "the first thing load() does" in done.stderr


@pytest.mark.models
@needs_ultralytics
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_and_a_prediction_make_no_attempt_to_reach_the_network(tmp_path: Path) -> None:
    done = run_python(WATCHED + TRAIN_AND_PREDICT, ROOT=str(tmp_path))

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "tries.json").read_text()) == []


@pytest.mark.models
@needs_ultralytics
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_hook_that_proves_it_does_see_an_attempt(tmp_path: Path) -> None:
    done = run_python(WATCHED + "import ultralytics.utils\nprint(*tries, sep='\\n')", ROOT=str(tmp_path), YOLO_CONFIG_DIR=str(tmp_path))

    assert "socket.getaddrinfo" in done.stdout, done.stdout + done.stderr
