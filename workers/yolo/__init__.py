"""The YOLO worker: trains detectors and predicts with them, through ultralytics."""
