"""The fixture `live`: a real supervisor for a test."""

from tests.support.live import live

__all__ = ["live"]
