"""Brings the network's small masks to the size of the picture."""

import torch
from ultralytics.utils import ops


def content_ratio(size: tuple[int, int], *, network_side: int) -> tuple[float, float]:
    """Return by what the picture's height and width are multiplied inside the network's square, each over that square's side.

    The picture fills the upper left of the square; rounding its sides to whole pixels makes the two slightly different.
    size: (height, width) in pixels.
    """
    gain = min(network_side / side for side in size)
    height, width = (round(side * gain) / network_side / side for side in size)
    return height, width


def scaled(logits: torch.Tensor, size: tuple[int, int], ratio: tuple[float, float]) -> torch.Tensor:
    """Return the logits, (n, 1, h, w), without the padding, as (n, 1, *size) float32.

    ratio: from `content_ratio`.
    """
    height, width = logits.shape[-2:]
    gain = (ratio[0] * height, ratio[1] * width)
    full: torch.Tensor = ops.scale_masks(logits.float(), size, (gain, (0, 0)), padding=False)
    return full
