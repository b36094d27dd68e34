"""Warden: the supervisor that keeps GPU model workers alive and lets them share a card."""

__version__ = "0.1.0"

DISTRIBUTION = "gpu-warden"
"""Marks this package as ours: PyPI's supervisord installs the same import name, and the command line checks at start which one it got."""
