"""The fixtures `library` and `cards`: a fake driver under the real pynvml."""

from tests.support.fake_card import cards, library

__all__ = ["cards", "library"]
