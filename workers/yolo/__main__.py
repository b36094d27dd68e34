"""Starts the YOLO worker: `python -P -m workers.yolo`, as `supervisor.toml` says."""

from workers.base import main
from workers.yolo.worker import Yolo

main(Yolo)
