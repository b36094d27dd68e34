"""The SAM worker: loads one network, and does `sam.segment` and `sam.propagate` jobs with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct

from workers import offline
from workers.base import BadInput, Job, Report, Worker
from workers.sam.requests import PropagateParams, SamOptions, SegmentParams


class Sam(Worker):
    """SAM2.1, and its kin by the name of the weights file."""

    serves = ("sam.segment", "sam.propagate")
    options_type = SamOptions
    params: ClassVar[Mapping[str, type[Struct]]] = {"sam.segment": SegmentParams, "sam.propagate": PropagateParams}

    def load(self) -> None:
        """Load the network onto its device. Raises WeightsError or OptionError with what to do."""
        options: SamOptions = self.options
        offline.prepare(self.state_dir.absolute() / "ultralytics" / self.name, allow_download=options.allow_download)
        # Only now: ultralytics reads its environment when it is imported. torchvision is imported by ultralytics in the
        # middle of the first prediction; here it counts as loading.
        import torchvision  # noqa: F401

        from workers.sam import network, propagate, segment, tracker

        self._network = network.load(options, config_dir=self.config_dir)
        self._segmenter = segment.Segmenter(self._network)
        self._propagator = propagate.Propagator(self._network, tracker.Encoder(self._network)) if self._network.video is not None else None
        self.note = self._network.weights.note
        found = self.note or f"weights {self._network.weights.path}"
        print(f"sam: {self._network.name} on {self._network.device}, image_size {options.image_size}, {found}", flush=True)

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Do one job. The result says whether the network was trained."""
        if self._network.weights.note:
            print(f"{job.kind} {job.id}: {self._network.weights.note}", flush=True)
        if job.kind == "sam.segment":
            result = self._segmenter.segment(job.params, report)
        elif self._propagator is None:
            raise BadInput(
                f"sam.propagate: {self._network.name} segments images only. To follow objects, set the worker's weights to a SAM2 file (sam2.1_t.pt)."
            )
        else:
            result = self._propagator.propagate(job, report)
        return {**result, "trained": self._network.weights.trained, "note": self._network.weights.note}

    def abandon(self, folder: Path) -> None:
        """Remove the features that were kept for another attempt: gigabytes at full size. The masks stay."""
        from workers.sam.propagate import SPOOL

        (folder / SPOOL).unlink(missing_ok=True)
