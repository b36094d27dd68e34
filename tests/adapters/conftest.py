"""The fixture `kept`: processes of a supervisor's own."""

from tests.support.kept import kept

__all__ = ["kept"]
