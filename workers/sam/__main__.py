"""Starts the SAM worker: `python -P -m workers.sam`."""

from workers.base import main
from workers.sam.worker import Sam

if __name__ == "__main__":
    main(Sam)
