"""Finds the network that the options or a job name, on the device they name, and opens it without running what its file holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from workers.weights import Weights, WeightsError, resolve
from workers.yolo.params import Options

if TYPE_CHECKING:
    from ultralytics import YOLO

KNOWN: Final = frozenset(f"{family}{size}.pt" for family in ("yolov8", "yolo11", "yolo12", "yolo26") for size in "nsmlx")


class Network(Struct, frozen=True):
    """What is trained or predicted with. source: a checkpoint, or the yaml that an untrained network is built from.

    trained, note: as in `Weights`, and they go into every result.  device: cpu or cuda:N.
    """

    source: str
    trained: bool
    note: str
    device: str


def find(options: Options, *, config_dir: Path) -> Network:
    """Return the network that the options mean. Raises WeightsError, ValueError for the device."""
    weights: Weights = resolve(
        options.weights,
        folder=config_dir / Path(options.weights_dir).expanduser(),
        known=KNOWN,
        allow_download=options.allow_download,
        allow_untrained=options.allow_untrained,
        base=config_dir,
    )
    if weights.path is None:  # the yaml of each known name comes with ultralytics
        return Network(source=f"{Path(options.weights).stem}.yaml", trained=False, note=weights.note, device=find_device(options.device))
    return Network(source=str(weights.path), trained=weights.trained, note=weights.note, device=find_device(options.device))


def find_device(name: str) -> str:
    """Return cpu or cuda:N for the option `device`. What follows on a card was never run where the tests run: they have none."""
    import torch

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if cards else "cpu"
    kind, _, number = name.partition(":")
    if name == "cpu":
        return name
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ValueError(f'device = "{name}" is none that can be used. Expected: "auto", "cpu", "cuda" or "cuda:0". Mend the option device.')
    if int(number or "0") >= cards:
        raise ValueError(f'device = "{name}", but torch sees {cards} CUDA devices here. Expected: one that is there, "auto" or "cpu". Mend the option device.')
    return f"cuda:{int(number or '0')}"


def open_network(source: str) -> "YOLO":
    """Return the detector in a checkpoint (read weights_only), or a new one from a yaml of ultralytics. Raises WeightsError."""
    from ultralytics import YOLO

    if not source.endswith((".pt", ".yaml")):
        raise WeightsError(f"Weights refused: {source} does not end in .pt. Expected: a checkpoint of ultralytics. Rename the file, or name another one.")
    if source.endswith(".pt"):
        open_checkpoint(source)
    network = YOLO(source, task="detect" if source.endswith(".yaml") else None, verbose=False)
    if network.task != "detect":
        raise WeightsError(f"Weights refused: {source} is a network for the task {network.task}. Expected: one that detects. Name another file.")
    return network


def open_checkpoint(file: str | Path) -> dict[str, Any]:
    """Return a checkpoint's content, on the CPU. Only tensors and the classes of ultralytics' own networks are read. Raises WeightsError."""
    from ultralytics.nn.tasks import torch_safe_load

    expected = "Expected: a checkpoint of ultralytics, such as yolo11n.pt. Fetch it again, or name another file."
    if not Path(file).is_file():
        raise WeightsError(f"No weights: there is no file {file}. {expected}")
    try:
        content, _ = torch_safe_load(str(file), safe_only=True)
    except Exception as error:  # it lets through what torch, zip and pickle raise for a broken file
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise WeightsError(f"Weights refused: {file} ({Path(file).stat().st_size} bytes) cannot be read safely ({reason}). {expected}") from error
    if not isinstance(content, dict) or not (content.get("model") or content.get("ema")):
        raise WeightsError(f"Weights refused: {file} holds no network. {expected}")
    return content
