"""The fixtures `live`: a real supervisor for a test, and `cards`: fake cards under the real pynvml."""

from tests.support.fake_card import cards, library
from tests.support.live import live

__all__ = ["cards", "library", "live"]
