"""A device for a Python program that Warden did not start: `with Gpu().lease(need="8GiB") as lease`. Importing it loads Python's own modules alone."""

from supervisor.client.gpu import INFERENCE_S, LOAD_S, STATUS_S, Gpu
from supervisor.client.lease import Lease
from supervisor.client.problems import Away, Busy, GpuError, Lost, Refused

__all__ = ["INFERENCE_S", "LOAD_S", "STATUS_S", "Away", "Busy", "Gpu", "GpuError", "Lease", "Lost", "Refused"]
