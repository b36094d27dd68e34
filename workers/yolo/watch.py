"""Follows a training through ultralytics' callbacks: progress and metrics out, orders to stop in, a checkpoint each epoch.

An order to stop is raised out of a callback, which ends the training within one batch. (`trainer.stop = True` would end it too,
but only after one more validation, and it strips the checkpoint of what a later attempt needs.)
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from workers.base import Report

MADE: Final = 1.0  # the making of the data set, where there is one, counts as one batch, ...
CHECKED: Final = 1.0  # ... and so does the look at it
METRICS: Final = {
    "precision": "metrics/precision(B)",
    "recall": "metrics/recall(B)",
    "mAP50": "metrics/mAP50(B)",
    "mAP50_95": "metrics/mAP50-95(B)",
}


class Watch:
    """The callbacks of one training. The scale of its progress is batches, of training and of validation alike, over the whole job."""

    def __init__(self, report: Report, *, epochs: int, batch: int, makes_data: bool = False, epochs_done: int = 0) -> None:
        """batch: pictures in one batch of the training; a validation takes twice as many at once.  epochs_done: by earlier attempts."""
        self.epochs = epochs
        self.epoch = -1  # 0-based; the one at hand, or the last one
        self._report = report
        self._batch = batch
        self._epochs_done = epochs_done
        self._made = MADE if makes_data else 0.0
        self._batches = self._val_batches = 1
        self._done_batches = self._done_val = 0
        self._ending = False
        self._to_keep = False  # ultralytics wrote last.pt, and its epoch has not been told yet

    def callbacks(self) -> Mapping[str, Callable[[Any], None]]:
        """Return a function for each of ultralytics' events that matter. They get the trainer, those of on_val_* the validator."""
        return {
            "on_train_start": self._train_start,
            "on_train_epoch_start": self._epoch_start,
            "on_train_batch_start": self._look,
            "on_train_batch_end": self._batch_end,
            "on_val_start": self._val_start,
            "on_val_batch_start": self._look,
            "on_val_batch_end": self._val_batch_end,
            "on_model_save": self._saved,
            "on_fit_epoch_end": self._epoch_end,
        }

    def made(self, done: int, total: int) -> None:
        """Report the making of the data set, which comes first: so many of its steps are done."""
        self._tell_before(self._made * done / total, total, phase="make data set")

    def checked(self, done: int, total: int) -> None:
        """Report the look at the data set, which comes before the training: so many of its pictures are done."""
        self._tell_before(self._made + CHECKED * done / total, total, phase="check data set")

    def _tell_before(self, done: float, pictures: int, *, phase: str) -> None:
        """Report what comes before the training, with a guess at how many batches that has; what earlier attempts did is done."""
        per_epoch = max(pictures / self._batch, 2)
        self._report.progress(self._epochs_done * per_epoch + done, self._before + self.epochs * per_epoch, phase=phase)

    def only_validate(self, epochs_done: int) -> None:
        """Say that all epochs are done, and only the final validation is left."""
        self.epoch, self._ending = epochs_done - 1, True

    @property
    def _before(self) -> float:
        return self._made + CHECKED

    @property
    def _per_epoch(self) -> int:
        return self._batches + self._val_batches

    @property
    def _total(self) -> float:
        return self._before + self.epochs * self._per_epoch + self._val_batches  # the best network is validated once more at the end

    def _train_start(self, trainer: Any) -> None:
        self._batches, self._val_batches = len(trainer.train_loader), len(trainer.test_loader)
        self._report.will_checkpoint()  # each epoch
        # The first batch may take a minute: it is the training that takes it, and not what came before.
        self._report.progress(self._before + trainer.start_epoch * self._per_epoch, self._total, phase="train")

    def _epoch_start(self, trainer: Any) -> None:
        # An epoch may come twice: ultralytics begins the first anew with a smaller batch when the card is full, and a later one after a NaN.
        self.epoch, self._done_batches, self._done_val = trainer.epoch, 0, 0
        self._report.check()

    def _look(self, _source: Any) -> None:
        self._report.check()

    def _batch_end(self, trainer: Any) -> None:
        self._done_batches += 1
        here = min(self._done_batches / len(trainer.train_loader), 1.0) * self._batches
        self._report.progress(self._before + self.epoch * self._per_epoch + here, self._total, phase="train")

    def _val_start(self, _validator: Any) -> None:
        self._done_val = 0

    def _val_batch_end(self, _validator: Any) -> None:
        self._done_val = min(self._done_val + 1, self._val_batches)
        before = self.epochs * self._per_epoch if self._ending else self.epoch * self._per_epoch + self._batches
        self._report.progress(self._before + before + self._done_val, self._total, phase="validate")

    def _saved(self, _trainer: Any) -> None:
        self._to_keep = True

    def _epoch_end(self, trainer: Any) -> None:
        if trainer.epoch != self.epoch:  # one call more comes after the last epoch, for the final validation
            return
        self._ending = bool(trainer.stop)
        loss = sum(float(part) for part in trainer.tloss.values())
        metrics = {"epoch": float(self.epoch + 1), "loss": loss, **read_metrics(trainer.metrics)}
        told = "  ".join(f"{name}={value:.4g}" for name, value in metrics.items() if name != "epoch")
        print(f"yolo: epoch {self.epoch + 1}/{self.epochs}  {told}", flush=True)
        try:
            self._report.progress(self._before + (self.epoch + 1) * self._per_epoch, self._total, phase="validate", metrics=metrics)
        finally:  # told first, since the work may have to leave at its checkpoint; kept in any case, since the epoch is done
            self._keep(trainer)

    def _keep(self, trainer: Any) -> None:
        # last.pt itself loses its optimizer when the training ends, and it is not written atomically.
        if self._to_keep:
            self._to_keep = False
            self._report.save_checkpoint(trainer.last)


def read_metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """Return precision, recall, mAP50 and mAP50_95 from ultralytics' metrics, whose names are longer."""
    return {name: float(found.get(key, 0.0)) for name, key in METRICS.items()}
