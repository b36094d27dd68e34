"""Measures what the masks of one 1280x720 frame weigh on their way to a viewer, as they lie on disk and gzipped, and what encoding and decoding cost.

Aim: 20 KB for two objects, not gzipped. The outlines are those of the two men of a photograph, drawn by hand; the same with an edge that frays, as a network's
does; ellipses; an untrained SAM's own masks of that photograph (random weights: patches all over, worse than any real mask); and noise, which is the end of it.
"""

import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.bench._warden import quick, scratch
from tests.support.measure import machine, print_table
from workers import masks, samples
from workers.base import Job, Report
from workers.outlines import OUTLINES

WIDTH, HEIGHT = 1280, 720
AIM_BYTES: Final = 20_000
GZIP_LEVEL: Final = 6

Objects = Mapping[int, NDArray[Any]]


def outlines() -> Objects:
    """Return the two men of the photograph."""
    found = {}
    for key, (_, outline) in enumerate(OUTLINES["zidane"], 1):
        canvas = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        cv2.fillPoly(canvas, [np.array(outline, dtype=np.int32)], 1)
        found[key] = canvas.astype(bool)
    return found


def frayed(objects: Objects) -> Objects:
    """Return the objects with an edge that goes in and out by a few pixels."""
    random = np.random.default_rng(0)
    noise = cv2.GaussianBlur(random.standard_normal((HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    noise *= 0.25 / noise.std()
    return {key: cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 6) + noise * _edge(mask) > 0.5 for key, mask in objects.items()}  # the middle


def _edge(mask: NDArray[Any]) -> NDArray[Any]:
    """Return 1 near the mask's edge, 0 elsewhere."""
    kernel = np.ones((13, 13), dtype=np.uint8)
    found: NDArray[Any] = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, kernel).astype(np.float32)
    return found


def ellipses() -> Objects:
    """Return two smooth blobs."""
    found = {}
    for key, (x, y, width, height, turn) in enumerate(((400, 360, 260, 180, 20), (900, 300, 180, 220, -35)), 1):
        canvas = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        cv2.ellipse(canvas, (x, y), (width, height), turn, 0, 360, 1, -1)
        found[key] = canvas.astype(bool)
    return found


def noise() -> Objects:
    """Return two masks without any order."""
    random = np.random.default_rng(1)
    return {key: random.random((HEIGHT, WIDTH)) < 0.5 for key in (1, 2)}  # each pixel by a coin


def of_sam(folder: Path, *, side: int) -> Objects:
    """Return an untrained SAM's masks of the two men, prompted by their boxes."""
    from workers.sam.requests import SamOptions, SegmentParams
    from workers.sam.worker import Sam

    worker = Sam()
    worker.name, worker.state_dir, worker.config_dir = "sam-0", folder / "var", folder
    worker.options = SamOptions(allow_untrained=True, device="cpu", image_size=side)
    worker.load()
    image = folder / "photograph.png"
    cv2.imwrite(str(image), samples.photograph("zidane"))
    boxes = [[float(value) for value in (*np.min(outline, axis=0), *np.max(outline, axis=0))] for _, outline in OUTLINES["zidane"]]
    job = Job(id="j", attempt=1, kind="sam.segment", params=SegmentParams(image=str(image), boxes=boxes), dir=folder)
    result = worker.run(job, Report(job))
    return {key: masks.decode(mask) for key, mask in enumerate(result["masks"], 1)}


def weigh(folder: Path, objects: Objects, *, rounds: int) -> tuple[int, int, float, float]:
    """Return bytes on disk, bytes gzipped, and the least ms of storing and of reading and decoding one frame."""
    stored_ms, read_ms = [], []
    back: dict[int, NDArray[Any]] = {}
    for _ in range(rounds):
        began_s = perf_counter()
        masks.save_frame(folder, 0, size=(HEIGHT, WIDTH), objects=objects)
        stored_ms.append(1000 * (perf_counter() - began_s))
        began_s = perf_counter()
        loaded = masks.load_frame(folder, 0)
        back = {int(key): masks.decode(rle) for key, rle in loaded["objects"].items()}
        read_ms.append(1000 * (perf_counter() - began_s))
    if not all(np.array_equal(back[key], mask) for key, mask in objects.items()):
        raise RuntimeError("the masks that came back are not those that were stored")
    data = masks.frame_file(folder, 0).read_bytes()
    json.loads(data)
    return len(data), len(gzip.compress(data, GZIP_LEVEL)), min(stored_ms), min(read_ms)


def main() -> int:
    """Print the table."""
    side, rounds = (128, 2) if quick() else (512, 20)
    with scratch() as folder:
        rows: dict[str, tuple[Objects, bool]] = {
            "two ellipses": (ellipses(), True),
            "two men, outlined by hand": (outlines(), True),
            "two men, frayed edges": (frayed(outlines()), True),
            f"untrained SAM, image_size {side}": (of_sam(folder, side=side), False),
            "noise": (noise(), False),
        }
        table = []
        for name, (objects, aimed) in rows.items():
            raw, zipped, stored_ms, read_ms = weigh(folder, objects, rounds=rounds)
            told = ("ok" if raw <= AIM_BYTES else "MISSED") if aimed else ""
            table.append((name, f"{raw:,}", f"{zipped:,}", f"{stored_ms:.1f}", f"{read_ms:.1f}", told))
    print_table(
        f"masks of a {WIDTH}x{HEIGHT} frame with two objects (best of {rounds} rounds; aim {AIM_BYTES:,} bytes as they are; {machine()})",
        ("what", "bytes", f"gzip -{GZIP_LEVEL}", "store ms", "read ms", "aim"),
        table,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
