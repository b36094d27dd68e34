"""Chaos: a whole supervisor under random faults for minutes, every invariant checked all the time. Run as `python -m tests.chaos`."""
