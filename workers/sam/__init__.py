"""The SAM worker: segments images on a click and follows objects through a video."""
