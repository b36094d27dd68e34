"""Does a `yolo.train` job: looks at the data set, trains or goes on training, and tells what came out."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from workers.base import Job, Report
from workers.given import named_path
from workers.yolo import dataset, mask_set, resume
from workers.yolo.network import Network, open_checkpoint, open_network
from workers.yolo.params import Masks, TrainParams, check_image_size
from workers.yolo.watch import Watch, read_metrics

if TYPE_CHECKING:
    from ultralytics.models.yolo.detect import DetectionTrainer

MADE: Final = "dataset"  # the folder of a data set that was made of masks
GPU_LOADERS: Final = 4  # processes that read pictures for a card; on the CPU ultralytics itself sets 0


def train(job: Job, report: Report, network: Network, *, image_size: int, base: Path) -> dict[str, Any]:
    """Return metrics and files of the trained network. All it writes is in job.dir; of the data set only the label caches.

    image_size: for a job that names none.  base: what relative paths are relative to.
    Raises BadInput before anything is trained, JobCancelled within a batch (but for the first scan of a new data set by ultralytics).
    """
    started_s = time.monotonic()
    params: TrainParams = job.params
    knobs = params.knobs()
    size = check_image_size(params.image_size or image_size, where="yolo.train")
    run = job.dir / "run"
    found = resume.prepare(job.resume_from, run, epochs=params.epochs)
    done = found.epochs_done if found else 0
    watch = Watch(report, epochs=params.epochs, batch=params.batch, makes_data=isinstance(params.masks, Masks), epochs_done=done)
    data = dataset.read(_data(job, watch, base=base), beat=watch.checked)
    yaml = data.write(job.dir / "data")
    note = "" if network.trained else f"UNTRAINED NETWORK: this training began with random weights ({network.source}); all it knows is from this data set"
    if note:
        print(note, flush=True)
    report.check()
    settings = {
        **_device_settings(network.device),
        "data": str(yaml),
        "imgsz": size,
        "batch": params.batch,
        "plots": False,
        "save_dir": str(run),  # a relative project would be put under a folder of ultralytics' own
    }
    if found is not None and found.finished:
        metrics, epochs = _validate_only(run / "weights" / "best.pt", watch, settings, epochs_done=found.epochs_done), found.epochs_done
    else:
        start = {"resume": str(found.last), "model": str(found.last)} if found else {"model": network.source, **knobs}
        metrics, epochs = _train(watch, {**settings, **start, "patience": knobs["patience"]}), watch.epoch + 1
    return {
        "epochs": epochs,
        "metrics": metrics,
        "weights": str(run / "weights" / "best.pt"),
        "results_csv": str(run / "results.csv"),
        "seconds": round(time.monotonic() - started_s, 3),
        "data": str(data.yaml),
        "images": len(data.train),
        "val_images": len(data.val),
        "classes": list(data.names),
        "trained": network.trained,
        "note": note,
        "resumed_from_epoch": found.epochs_done if found else None,
    }


def _data(job: Job, watch: Watch, *, base: Path) -> Path:
    """Return the data set's yaml or folder: the one that was named, or the one that is made of the masks."""
    params: TrainParams = job.params
    if isinstance(params.masks, Masks):
        return mask_set.make(params.masks, job.dir / MADE, base=base, beat=watch.made)
    return named_path(str(params.data), what="data", base=base)


def _train(watch: Watch, settings: dict[str, Any]) -> dict[str, float]:
    """Train to the end, and return the metrics of the best network."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    trainer = DetectionTrainer(overrides={"task": "detect", "mode": "train", **settings}, _callbacks=_callbacks(watch))
    try:
        trainer.train()
        return read_metrics(trainer.metrics)
    finally:
        _close(trainer)


def _validate_only(best: Path, watch: Watch, settings: dict[str, Any], *, epochs_done: int) -> dict[str, float]:
    """Do what was left when an attempt ended after its last epoch: strip the best network and measure it."""
    from ultralytics.utils.torch_utils import strip_optimizer

    if open_checkpoint(best).get("optimizer") is not None:
        strip_optimizer(best)
    network = open_network(str(best))
    for event, function in watch.callbacks().items():
        if event.startswith("on_val"):
            network.add_callback(event, function)
    watch.only_validate(epochs_done)
    measured = network.val(
        data=settings["data"], imgsz=settings["imgsz"], batch=2 * settings["batch"], device=settings["device"], workers=settings["workers"],
        plots=False, save_dir=settings["save_dir"], verbose=False,
    )  # fmt: skip
    return read_metrics(measured.results_dict)


def _callbacks(watch: Watch) -> dict[str, list[Any]]:
    from ultralytics.utils.callbacks import get_default_callbacks

    callbacks: dict[str, list[Any]] = get_default_callbacks()
    for event, function in watch.callbacks().items():
        callbacks[event].append(function)
    return callbacks


def _device_settings(device: str) -> dict[str, Any]:
    """Return device, number of loader processes and number format. The card's part was never run on one.

    ultralytics' own test of half precision fetches a network from the network; brain floats need no test, and a card without them uses full precision.
    """
    if device == "cpu":
        return {"device": device, "workers": 0, "amp": False}
    import torch

    with torch.cuda.device(device):
        amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else False
    return {"device": device.removeprefix("cuda:"), "workers": min(GPU_LOADERS, os.cpu_count() or 1), "amp": amp}


def _close(trainer: "DetectionTrainer") -> None:
    """End the loader processes, which ultralytics leaves running when a training is broken off, and let go of the network."""
    for name in ("train_loader", "test_loader"):
        close = getattr(getattr(trainer, name, None), "close", None)
        if close is not None:
            close()
    trainer.callbacks.clear()
    for name in ("train_loader", "test_loader", "model", "ema", "optimizer", "scheduler", "validator", "loss", "tloss", "loss_items"):
        setattr(trainer, name, None)
