"""What people may ask of the SAM worker: its options, the parameters of its jobs, and their checks against the picture."""

import math
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from workers.base import BadInput

FRONT, BACK = 1, 0  # labels: a point on the object, a point beside it

Xy = Annotated[list[float], Meta(min_length=2, max_length=2)]
Xyxy = Annotated[list[float], Meta(min_length=4, max_length=4)]
Label = Annotated[int, Meta(ge=BACK, le=FRONT)]
Natural = Annotated[int, Meta(ge=0)]


class SamOptions(Struct, frozen=True, kw_only=True):
    """The worker's own options in supervisor.toml. Relative paths are relative to that file.

    image_size: pixels of the square that the network sees; a multiple of 32.
    model_size: t, s, b or l (or tiny, small, base_plus, large): the size where `weights` is empty or a known name.
    quantize: half precision, on CUDA only.  memory_bank_size: frames that the tracker looks back on, 1 to 7.
    disable_postproc: masks as the network gives them: objects may overlap, the mask of a click is not chosen by its
    stability and is remembered as probabilities.
    """

    weights: str = ""
    weights_dir: str = "weights"
    allow_download: bool = False
    allow_untrained: bool = False
    device: str = "auto"
    image_size: Annotated[int, Meta(ge=64, le=2048, multiple_of=32)] = 1024
    model_size: str = ""
    quantize: bool = False
    memory_bank_size: Annotated[int, Meta(ge=1, le=7)] = 7
    disable_postproc: bool = False


class SegmentParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`sam.segment`: the masks of one image.

    points: [x, y] in pixels of the image, all on (or, with label 0, beside) one object; labels default to 1.
    boxes: [x1, y1, x2, y2]; each is one object. Points go with one box at most.
    multimask: three guesses for an ambiguous prompt in place of one.
    """

    image: str
    points: list[Xy] = []
    labels: list[Label] = []
    boxes: list[Xyxy] = []
    multimask: bool = False


class Prompt(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object shown on one frame: points (labels default to 1), a box, or a box with points, in pixels of the video."""

    frame: Natural = 0
    object: Natural = 1
    points: list[Xy] = []
    labels: list[Label] = []
    box: Xyxy | None = None


class PropagateParams(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`sam.propagate`: the masks of each frame of a video, from the prompts on.

    frames count from 0 at the start of the video.  first_frame: where to begin.  max_frames: how many; 0 for all.
    An object has masks from its first prompt on, none before. One prompt for an object on a frame.
    """

    video: str
    prompts: list[Prompt]
    first_frame: Natural = 0
    max_frames: Natural = 0


def check_segment(params: SegmentParams, *, size: tuple[int, int]) -> None:
    """Check the prompts of an image of size (height, width). Raises BadInput."""
    if not params.points and not params.boxes:
        raise BadInput("sam.segment: neither points nor boxes were given. Give at least one point, such as points=[[120, 80]].")
    if params.points and len(params.boxes) > 1:
        raise BadInput(
            f"sam.segment: {len(params.points)} points were given with {len(params.boxes)} boxes, and it is unclear which object they mean. "
            "Give points with one box at most, or boxes alone."
        )
    _check_shapes(params.points, params.labels, params.boxes, size=size, where="sam.segment")


def check_prompts(params: PropagateParams) -> None:
    """Check what can be checked before the video is open. Raises BadInput."""
    if not params.prompts:
        raise BadInput('sam.propagate: prompts is empty. Give at least one, such as {"frame": 0, "object": 1, "points": [[120, 80]]}.')
    seen: set[tuple[int, int]] = set()
    for index, prompt in enumerate(params.prompts):
        where = f"prompts[{index}]"
        if not prompt.points and prompt.box is None:
            raise BadInput(f"{where}: neither points nor a box were given for object {prompt.object} on frame {prompt.frame}. Give one of them.")
        if (prompt.frame, prompt.object) in seen:
            raise BadInput(f"{where}: object {prompt.object} has a prompt on frame {prompt.frame} already. Put all its points on a frame into one prompt.")
        seen.add((prompt.frame, prompt.object))


def check_prompts_fit(params: PropagateParams, *, size: tuple[int, int], end: int) -> None:
    """Check the prompts against the video's size (height, width) and its frames first_frame <= k < end. Raises BadInput."""
    for index, prompt in enumerate(params.prompts):
        where = f"prompts[{index}]"
        if not params.first_frame <= prompt.frame < end:
            raise BadInput(f"{where}: frame {prompt.frame} is not there, the job covers the frames {params.first_frame} to {end - 1}. Choose one of them.")
        _check_shapes(prompt.points, prompt.labels, [prompt.box] if prompt.box else [], size=size, where=where)


def _check_shapes(points: Sequence[Xy], labels: Sequence[int], boxes: Sequence[Xyxy], *, size: tuple[int, int], where: str) -> None:
    height, width = size
    frame = f"the picture is {width} x {height} pixels, so x must be from 0 to {width - 1} and y from 0 to {height - 1}"
    if labels and len(labels) != len(points):
        raise BadInput(f"{where}: {len(points)} points came with {len(labels)} labels. Give one label (1 = object, 0 = background) for each point, or none.")
    if points and not boxes and labels and FRONT not in labels:
        raise BadInput(f"{where}: all {len(points)} points are background (label 0). Give at least one point on the object (label 1), or a box.")
    for number, (x, y) in enumerate(points):
        if not (_inside(x, width) and _inside(y, height)):
            raise BadInput(f"{where}: point {number} at ({x:g}, {y:g}) lies outside: {frame}.")
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        if not (x1 < x2 and y1 < y2):
            raise BadInput(f"{where}: box {number} ({x1:g}, {y1:g}, {x2:g}, {y2:g}) is empty: x1 < x2 and y1 < y2 were expected.")
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            raise BadInput(f"{where}: box {number} ({x1:g}, {y1:g}, {x2:g}, {y2:g}) reaches outside: the picture is {width} x {height} pixels.")


def _inside(value: float, length: int) -> bool:
    return math.isfinite(value) and 0 <= value <= length - 1
