"""Durations and sizes: what is read, what is refused, and that each spelling is read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.units import format_count, format_duration, format_size, parse_duration, parse_size, say_attempt, say_duration, spell_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("500ms", 0.5),
        ("90s", 90.0),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("30m1h", 5400.0),
        ("1d", 86400.0),
        ("0.1s", 0.1),
        ("1h0.001s", 3600.001),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "1.5",
        "10 m",
        " 10m",
        "10m ",
        "-5s",
        "+5s",
        "1e3s",
        "10M",
        "10min",
        "s",
        "1h 30m",
        "10m10m",
        "0.5ms",
        ".5s",
        "5.s",
        "inf",
        "nan",
        "\u0661\u0660m",
        "9" * 400 + "d",
    ],
)
def test_a_duration_without_a_clear_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='expected a duration with its unit, such as "90s", "10m" or "1h30m"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("0B", 0),
        ("512B", 512),
        ("8GiB", 8 * 2**30),
        ("8 GiB", 8 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("2GB", 2 * 10**9),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("2TiB", 2**41),
    ],
)
def test_a_size_is_read_in_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "8", "8G", "8Gi", "8g", "8gib", "kiB", "1kiB", "-1GiB", "1  GiB", "1e3B", "10m", "\u0668GiB", "9" * 400 + "B"])
def test_a_size_without_a_clear_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='expected a size with its unit, such as "8GiB" or "512MiB"'):
        parse_size(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_each_duration_of_whole_milliseconds_is_read_back_exactly(milliseconds: int) -> None:
    seconds = milliseconds / 1000

    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=2**60) | st.integers(min_value=0, max_value=2**20).map(lambda count: count * 2**30))
def test_each_size_is_read_back_exactly(size_bytes: int) -> None:
    assert parse_size(spell_size(size_bytes)) == size_bytes


@given(st.integers(min_value=1, max_value=2**50))
def test_a_size_for_people_is_right_to_one_part_in_a_hundred(size_bytes: int) -> None:
    text = format_size(size_bytes)

    assert "e+" not in text
    assert abs(parse_size(text) - size_bytes) <= max(size_bytes / 100, 1)


@given(st.text(max_size=12))
def test_no_text_ends_in_anything_but_a_value_or_a_refusal(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            value = parse(text)
        except ValueError:
            continue
        assert value >= 0


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0s"), (600.0, "10m"), (3600.0, "1h"), (5400.0, "1h30m"), (0.25, "250ms"), (61.5, "1m1s500ms")])
def test_a_duration_is_spelled_for_the_file(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0"),
        (512, "512B"),
        (2437922816, "2.27GiB"),
        (2**30, "1GiB"),
        (1023 * 2**20, "1023MiB"),
        (int(999.6 * 2**20), "1000MiB"),
        (-(2**30), "-1GiB"),
        (3 * 2**41, "6TiB"),
    ],
)
def test_a_size_is_spelled_for_people(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(("size_bytes", "text"), [(0, "0"), (2**31, "2GiB"), (256 * 2**20, "256MiB"), (2 * 10**9, "2GB"), (1001, "1001B")])
def test_a_size_is_spelled_for_the_file(size_bytes: int, text: str) -> None:
    assert spell_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (600, "10 minutes"),
        (60, "1 minute"),
        (90, "1 minute 30 seconds"),
        (1, "1 second"),
        (0, "0 seconds"),
        (0.5, "0.5 seconds"),
        (1.5, "1.5 seconds"),
        (5, "5 seconds"),
        (3600, "1 hour"),
        (90000, "1 day 1 hour"),
    ],
)
def test_a_duration_is_said_in_words(seconds: float, words: str) -> None:
    assert say_duration(seconds) == words


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.266667, "0.3"), (21.3333, "21.3"), (100.0, "100"), (99.96, "100"), (1234567.0, "1234567")])
def test_a_count_has_one_figure_behind_the_point_at_the_most(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("attempt", "failures", "words"),
    [
        (1, 0, "attempt 1 of 6"),
        (3, 2, "attempt 3 of 6"),
        (6, 6, "attempt 6 of 6"),
        (13, 1, "attempt 13, 1 of 6 failed"),
        (2, 0, "attempt 2, 0 of 6 failed"),
    ],
)
def test_an_attempt_that_cost_nothing_is_not_counted_against_those_that_may_fail(attempt: int, failures: int, words: str) -> None:
    assert say_attempt(attempt, failures, 6) == words
