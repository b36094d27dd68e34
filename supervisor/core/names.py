"""What things are called: one type for the names of each kind, so that none is taken for another."""

from typing import NewType

WorkerName = NewType("WorkerName", str)
JobId = NewType("JobId", str)
LeaseId = NewType("LeaseId", str)
DeviceId = NewType("DeviceId", str)
Work = NewType("Work", str)
Ticket = NewType("Ticket", str)
"""An outside program's place in the queue for a device. It keeps its age for a while when it goes away."""
