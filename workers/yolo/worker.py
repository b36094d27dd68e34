"""The YOLO worker as Warden sees it: what it serves, what it loads, which job goes where."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from workers import offline
from workers.base import BadInput, Job, Report, Worker
from workers.budget import keep_budget
from workers.weights import WeightsError
from workers.yolo import network
from workers.yolo.params import Options, PredictParams, TrainParams, check_image_size
from workers.yolo.predict import predict
from workers.yolo.train import MADE, train

if TYPE_CHECKING:
    from ultralytics import YOLO


class Yolo(Worker):
    """Trains detectors and predicts with them. On the CPU it was measured; on a card it was never run."""

    serves = ("yolo.train", "yolo.predict")
    options_type: ClassVar[type[Struct]] = Options
    params: ClassVar[Mapping[str, type[Struct]]] = {"yolo.train": TrainParams, "yolo.predict": PredictParams}

    options: Options
    _network: network.Network
    _detector: "YOLO"

    def load(self) -> None:
        """Import ultralytics with the network closed, find the weights, and predict once. Raises WeightsError, ValueError, BadInput."""
        check_image_size(self.options.image_size, where="options")
        offline.prepare(self.state_dir / "ultralytics" / self.name, allow_download=self.options.allow_download)
        self._network = network.find(self.options, config_dir=self.config_dir)
        self.note = self._network.note
        if self.note:
            print(self.note, flush=True)
        keep_budget(self._network.device)
        _import_all()
        logging.getLogger("ultralytics").setLevel(logging.WARNING)  # its progress bars and tables would fill the log; a line for each epoch is ours
        self._detector = network.open_network(self._network.source)
        self._warm()

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Do one job. Raises BadInput, JobCancelled."""
        if job.kind == "yolo.train":
            return train(job, report, self._network, image_size=self.options.image_size, base=self.config_dir)
        params: PredictParams = job.params
        chosen = self._detector if params.weights is None else _open_named(self.config_dir / Path(params.weights).expanduser())
        told = {"trained": self._network.trained, "note": self._network.note, "weights": self._network.source}
        if params.weights is not None:
            told = {"trained": True, "note": "", "weights": params.weights}
        return {**predict(job, report, chosen, image_size=self.options.image_size, device=self._network.device, base=self.config_dir), **told}

    def abandon(self, folder: Path) -> None:
        """Remove the data set that was made of masks: what came of the training so far stays, and the masks can be made one again."""
        shutil.rmtree(folder / MADE, ignore_errors=True)

    def _warm(self) -> None:
        """Predict on an empty picture, so that what the first prediction imports and allocates is there before the first job."""
        import numpy as np

        self._detector.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, device=self._network.device, save=False, verbose=False)


def _open_named(file: Path) -> "YOLO":
    try:
        return network.open_network(str(file))
    except WeightsError as error:
        raise BadInput(f"yolo.predict: {error}") from error


def _import_all() -> None:
    """Import what a training imports on its way, so that memory is the same before the first job and after it."""
    import matplotlib.pyplot  # noqa: ICN001, F401 - see above
    import polars  # noqa: ICN001, F401 - see above
    import torchvision  # noqa: F401 - see above
    import ultralytics.models.yolo.detect
    import ultralytics.utils.callbacks
    import ultralytics.utils.plotting  # noqa: F401 - see above
