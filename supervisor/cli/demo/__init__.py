"""`warden demo`: the main job on real input. SAM propagates masks, YOLO asks for the device, SAM makes room, YOLO trains, SAM comes back."""

import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from supervisor.cli.context import Exit
from supervisor.cli.demo.play import play
from supervisor.cli.demo.stage import DemoFailed, Stage
from supervisor.cli.demo.summary import summary

INTERRUPTED = 130


def tell(environ: Mapping[str, str], folder: str | None) -> int:
    """Tell the story and return the exit code: 0 only if every step was verified."""
    missing = [name for name in ("torch", "ultralytics", "cv2") if find_spec(name) is None]
    if missing:
        print(f"the demo runs real models, and {', '.join(missing)} is not installed: pip install 'gpu-warden[models]'", file=sys.stderr)
        return Exit.FAILED
    home = Path(folder).absolute() if folder else Path(tempfile.mkdtemp(prefix="warden-demo-"))
    home.mkdir(parents=True, exist_ok=True)
    if any(home.iterdir()):
        print(f"{home} is not empty: name a folder that is, or one that does not exist yet", file=sys.stderr)
        return Exit.USAGE
    console = Console(highlight=False, soft_wrap=True)
    try:
        return summary(console, play(Stage(console, home, environ)))
    except DemoFailed as failed:
        console.print(f"\n[bold red]The demo failed:[/] {failed}\nEverything it wrote is in {home}; its log is {home / 'logs' / 'watchdog.log'}")
        return Exit.FAILED
    except KeyboardInterrupt:
        console.print(f"\nstopped by Ctrl-C; what it wrote is in {home}")
        return INTERRUPTED
