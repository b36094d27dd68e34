"""Keeps ultralytics off the network: its environment, settings and fonts, made before it is imported.

Seen with an audit hook on ultralytics 8.4 (tests/workers/test_offline.py): without this, each import looks up two public
resolvers by name, and each training asks a web host for a font even where nothing is plotted.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

# Arial.ttf is looked for by every training, Arial.Unicode.ttf as well where a class name is not ASCII.
FONTS = ("Arial.ttf", "Arial.Unicode.ttf")

# Integrations that ultralytics switches on by itself when their package is installed; several talk to a service of their own.
_SETTINGS_OFF = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg", "openvino_msg")


def prepare(folder: Path, *, allow_download: bool) -> None:
    """Make `folder` the only place ultralytics writes its settings to, and close its ways to the network.

    folder: made if missing; one per worker, because ultralytics rewrites the files in it without a lock.
    allow_download: True leaves the online check open, which ultralytics' downloader needs. All else stays off.
    Call it before ultralytics is imported: the environment is read at import.
    Raises RuntimeError when ultralytics was imported with another folder, FileNotFoundError when matplotlib's font is missing.
    """
    folder = folder.absolute()
    environment = _environment(folder, allow_download=allow_download)
    if "ultralytics" in sys.modules and any(os.environ.get(name) != value for name, value in environment.items()):
        raise RuntimeError(
            f"offline.prepare({str(folder)!r}) came after ultralytics was imported with other settings. "
            "Expected: it is the first thing load() does. Move the import of ultralytics below it."
        )
    settings_dir = folder / "Ultralytics"
    settings_dir.mkdir(parents=True, exist_ok=True)
    (folder / "matplotlib").mkdir(exist_ok=True)
    if not (settings_dir / "settings.json").exists():
        _write_settings(folder, settings_dir / "settings.json")
    for name in FONTS:
        if not (settings_dir / name).exists():
            shutil.copyfile(_some_font(), settings_dir / name)
    os.environ.update(environment)
    if allow_download:
        os.environ.pop("YOLO_OFFLINE", None)


def _environment(folder: Path, *, allow_download: bool) -> dict[str, str]:
    environment = {
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_AUTOINSTALL": "false",  # else a missing package starts pip inside the worker
        "ULTRALYTICS_SAFE_LOAD": "1",  # checkpoints are opened weights_only, a pickle in them cannot run code
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "MPLBACKEND": "Agg",
    }
    if not allow_download:
        environment["YOLO_OFFLINE"] = "1"
    return environment


def _write_settings(folder: Path, file: Path) -> None:
    """Write all keys of the settings' version 0.0.8; another release adds or drops what it must, with a warning, and keeps the rest."""
    settings: dict[str, object] = {"settings_version": "0.0.8", "uuid": "", "api_key": "", "openai_api_key": "", **dict.fromkeys(_SETTINGS_OFF, False)}
    settings.update({f"{what}_dir": str(folder / what) for what in ("datasets", "weights", "runs")})
    file.write_text(json.dumps(settings), encoding="utf-8")


def _some_font() -> Path:
    """Return a font file that is surely there: matplotlib, which ultralytics requires, ships it."""
    spec = importlib.util.find_spec("matplotlib")
    font = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if spec and spec.origin else Path("matplotlib")
    if not font.is_file():
        raise FileNotFoundError(
            f"no font at {font}. Expected: DejaVuSans.ttf, which comes with matplotlib. Install the models extra again: pip install 'gpu-warden[models]'."
        )
    return font
