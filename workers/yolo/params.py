"""The options of the YOLO worker and the params of its two kinds of job: types, bounds, defaults."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from workers.base import BadInput

STRIDE = 32  # the networks halve the picture five times

ImageSize = Annotated[int, Meta(ge=64, le=4096)]
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]
Optimizer = Literal["auto", "SGD", "MuSGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`options` of a worker in supervisor.toml. Relative paths are relative to that file.

    weights: a file, or a known name such as yolo11n.pt that lies in weights_dir.  device: auto, cpu, cuda or cuda:N.
    image_size: pixels a side, a multiple of 32; what jobs use that name none.
    """

    weights: str = "yolo11n.pt"
    weights_dir: str = "weights"
    allow_download: bool = False
    allow_untrained: bool = False
    device: str = "auto"
    image_size: ImageSize = 640


class Masks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video and its masks, of which a data set is made: frames with the boxes around the masks. Relative paths are relative to supervisor.toml.

    masks_dir: the folder `masks` of a sam.propagate job.  classes: object id -> class name, where it is not to be object-<id>; objects may share a class.
    val_share: how many of the frames that show something are held out, the last ones.  every: of so many frames one is taken.
    """

    video: Text
    masks_dir: Text
    classes: dict[str, Text] = {}
    val_share: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    every: Annotated[int, Meta(ge=1)] = 1


class TrainParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training. The names and defaults are those of ultralytics, but image_size (imgsz) and lr0 (0.01 there).

    data: a data set's yaml file, or its folder.  masks: what a data set is to be made of, in place of data.
    patience: epochs without a better result until it stops early, 0 = never.
    lr0: the first learning rate; "auto" as optimizer picks both, so lr0 needs a named optimizer.  lrf: the last one, as a share of lr0.
    nbs: pictures between two steps of the optimizer; with a smaller batch, the gradients of several are added up.
    mosaic, mixup, fliplr, flipud: how probable the change is.  scale, translate: its largest share.  degrees: its largest turn.
    close_mosaic: in so many epochs at the end mosaic is off.  freeze: so many layers, from the first, are not trained.
    """

    schema_extra: ClassVar[Mapping[str, Any]] = {"oneOf": [{"required": ["data"]}, {"required": ["masks"]}]}

    data: Text | UnsetType = UNSET
    masks: Masks | UnsetType = UNSET
    epochs: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    batch: Annotated[int, Meta(ge=1, le=4096)] = 16
    image_size: ImageSize | None = None
    patience: Annotated[int, Meta(ge=0)] = 100
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    optimizer: Optimizer = "auto"
    lr0: Annotated[float, Meta(gt=0, le=1)] | None = None
    lrf: Annotated[float, Meta(gt=0, le=1)] = 0.01
    momentum: Share = 0.937
    weight_decay: Share = 0.0005
    nbs: Annotated[int, Meta(ge=1, le=4096)] = 64
    warmup_epochs: Annotated[float, Meta(ge=0)] = 3.0
    cos_lr: bool = False
    mosaic: Share = 1.0
    close_mosaic: Annotated[int, Meta(ge=0)] = 10
    mixup: Share = 0.0
    degrees: Annotated[float, Meta(ge=0, le=180)] = 0.0
    translate: Share = 0.1
    scale: Share = 0.5
    fliplr: Share = 0.5
    flipud: Share = 0.0
    freeze: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Hold to schema_extra."""
        if (self.data is UNSET) == (self.masks is UNSET):
            found = "neither data nor masks" if self.data is UNSET else "both data and masks"
            raise ValueError(f"found {found}, expected exactly one of them: `data` is a data set, `masks` what one is to be made of")

    def knobs(self) -> dict[str, Any]:
        """Return what ultralytics' trainer is told of these, under its names. Raises BadInput for an lr0 that would be ignored."""
        if self.lr0 is not None and self.optimizer == "auto":
            raise BadInput(
                f'lr0 = {self.lr0:g} would have no effect: optimizer is "auto", which picks its own. '
                "Expected: no lr0, or an optimizer by name. Say optimizer=AdamW."
            )
        same = (
            "epochs", "batch", "seed", "optimizer", "lrf", "momentum", "weight_decay", "nbs", "warmup_epochs", "cos_lr",
            "mosaic", "close_mosaic", "mixup", "degrees", "translate", "scale", "fliplr", "flipud",
        )  # fmt: skip
        return {
            **{name: getattr(self, name) for name in same},
            "lr0": 0.01 if self.lr0 is None else self.lr0,
            "patience": self.patience or self.epochs,
            "freeze": self.freeze or None,
        }


class PredictParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prediction. image: a picture's path, or a list of them.  conf: lowest score of a box.  iou: above it two boxes are one.

    weights: another network for this job, such as the best.pt of a training.
    """

    image: Text | Annotated[list[str], Meta(min_length=1)]
    conf: Share = 0.25
    iou: Share = 0.7
    image_size: ImageSize | None = None
    weights: Text | None = None


def check_image_size(size: int, *, where: str) -> int:
    """Return the size if the networks can take it. Raises BadInput."""
    if size % STRIDE:
        low = size - size % STRIDE
        raise BadInput(f"{where}: image_size = {size} is not a multiple of {STRIDE}, which the network needs. Say {low} or {low + STRIDE}.")
    return size
