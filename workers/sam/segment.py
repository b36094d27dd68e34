"""`sam.segment`: the masks of one image; the features of the last image are kept, so that the next click on it is fast."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch

from workers import masks
from workers.base import Report
from workers.given import existing_file
from workers.sam.network import Network
from workers.sam.requests import SegmentParams, check_segment
from workers.sam.upscale import content_ratio, scaled
from workers.video import read_image


class _Seen(NamedTuple):
    """The last image. key: path, size and time of the file.  size: (height, width)."""

    key: tuple[str, int, int]
    size: tuple[int, int]
    features: Any


class Segmenter:
    """Segments images with one network. Holds the features of one image: 17 MB at image_size 1024."""

    def __init__(self, network: Network) -> None:
        """Begin without an image."""
        self._network = network
        self._seen: _Seen | None = None

    @torch.inference_mode()
    def segment(self, params: SegmentParams, report: Report) -> dict[str, Any]:
        """Return `{"size": [h, w], "masks": [{"size", "counts", "score", "area", "box"}], "cached", "seconds"}`.

        score: the network's own guess of its overlap with the truth, 0 to 1.  area: pixels.  box: x1, y1, x2, y2 around
        the mask, the last column and row included; None for an empty mask.  cached: no image was encoded for this.
        Raises BadInput.
        """
        began_s = time.monotonic()
        path = existing_file(params.image, what="image")
        facts = path.stat()
        key = (str(path), facts.st_size, facts.st_mtime_ns)
        seen = self._seen
        cached = seen is not None and seen.key == key
        if seen is None or seen.key != key:
            image = read_image(path)
            size = (int(image.shape[0]), int(image.shape[1]))
            check_segment(params, size=size)
            report.progress(0, 2, phase="encode")
            predictor = self._network.image
            features = predictor.get_im_features(predictor.preprocess([image]))
            seen = self._seen = _Seen(key=key, size=size, features=features)
        else:
            check_segment(params, size=seen.size)
        report.progress(1, 2, phase="segment")
        found = self._prompted(params, seen)
        report.progress(2, 2, phase="segment")
        return {"size": list(seen.size), "masks": found, "cached": cached, "seconds": round(time.monotonic() - began_s, 4)}

    def _prompted(self, params: SegmentParams, seen: _Seen) -> list[dict[str, Any]]:
        predictor = self._network.image
        side = self._network.image_size
        prompts = predictor._prepare_prompts(  # noqa: SLF001 - the public call gives masks without their scores where it finds none
            (side, side),
            seen.size,
            bboxes=params.boxes or None,
            points=[params.points] if params.points else None,
            labels=[params.labels] if params.labels else None,
        )
        logits, scores = predictor._inference_features(seen.features, *prompts, multimask_output=params.multimask)  # noqa: SLF001
        ratio = content_ratio(seen.size, network_side=side)
        found = []
        for low, score in zip(logits, scores.float().tolist(), strict=True):  # one at a time in full size, as boxes may be many
            mask = (scaled(low[None, None], seen.size, ratio)[0, 0] > predictor.model.mask_threshold).cpu().numpy()
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])] if rows.size else None
            found.append({**masks.encode(mask), "score": round(score, 4), "area": int(mask.sum()), "box": box})
        return found
