"""The fixtures `kept`: processes of a supervisor's own, and `cards`: fake cards under the real pynvml."""

from tests.support.fake_card import cards, library
from tests.support.kept import kept

__all__ = ["cards", "kept", "library"]
