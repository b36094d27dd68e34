"""Which commands keep a stop for later: the supervisor alone. All others end by Ctrl-C as any program does."""

import pytest

from supervisor.__main__ import _is_run


@pytest.mark.parametrize(
    ("words", "is_run"),
    [
        ("run", True),
        ("--config here.toml run", True),
        ("--config=here.toml run", True),
        ("", False),
        ("--config", False),
        ("--config run", False),
        ("logs run -f", False),
        ("gpu run -- train", False),
        ("--config run status", False),
    ],
)
def test_a_run_is_told_from_other_commands(words: str, *, is_run: bool) -> None:
    assert _is_run(words.split()) is is_run
