"""Does a `yolo.predict` job: finds what is on pictures."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.base import BadInput, Job, Report
from workers.given import named_path
from workers.yolo.labels import picture_problem
from workers.yolo.params import PredictParams, check_image_size

if TYPE_CHECKING:
    from ultralytics import YOLO


def find_pictures(params: PredictParams, *, base: Path) -> list[Path]:
    """Return the job's pictures, each one looked at. base: what relative paths are relative to. Raises BadInput for the first bad one."""
    named = [params.image] if isinstance(params.image, str) else params.image
    pictures = [named_path(name, what="image", base=base) for name in named]
    for picture in pictures:
        problem = picture_problem(picture)
        if problem:
            raise BadInput(f"yolo.predict: {problem}")
    return pictures


def predict(job: Job, report: Report, network: "YOLO", *, image_size: int, device: str, base: Path) -> dict[str, Any]:
    """Return for each picture its boxes (xyxy, pixels of the picture), class names and scores, best first. Raises BadInput."""
    import cv2

    params: PredictParams = job.params
    started_s = time.monotonic()
    size = check_image_size(params.image_size or image_size, where="yolo.predict")
    pictures = find_pictures(params, base=base)
    found = []
    for index, picture in enumerate(pictures):
        report.progress(index, len(pictures), phase="predict")
        # Pixels, not the path: ultralytics would take a star in a name for a pattern, and some suffixes for a video.
        pixels = cv2.imread(str(picture), cv2.IMREAD_COLOR)
        if pixels is None:
            raise BadInput(f"yolo.predict: {picture} cannot be decoded. Expected: a picture such as a JPEG or PNG. Convert it.")
        [result] = network.predict(pixels, conf=params.conf, iou=params.iou, imgsz=size, device=device, save=False, verbose=False)
        boxes = result.boxes
        found.append(
            {
                "image": str(picture),
                "width": int(pixels.shape[1]),
                "height": int(pixels.shape[0]),
                "boxes": [[round(float(value), 2) for value in box] for box in boxes.xyxy.tolist()],
                "classes": [str(result.names[int(index)]) for index in boxes.cls.tolist()],
                "scores": [round(float(score), 4) for score in boxes.conf.tolist()],
            }
        )
    report.progress(len(pictures), len(pictures), phase="predict")
    return {"images": found, "seconds": round(time.monotonic() - started_s, 3)}
