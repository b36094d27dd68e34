"""The lines of memory: where a zone begins and ends, what small machines get instead, and how soon somebody has to look again."""

import pytest

from supervisor.core.limits import GIB, MIB, MemoryLimits
from supervisor.core.memory import PAUSE_MAX_S, PAUSE_MIN_S, Lines, lines, pause_s, zone_of
from supervisor.core.model import Zone

USUAL = Lines(4 * GIB, 2 * GIB, GIB)

ZONES = [
    ("over every line", 4 * GIB, Zone.OK, Zone.OK),
    ("just under the first", 4 * GIB - 1, Zone.OK, Zone.WARN),
    ("at the second", 2 * GIB, Zone.OK, Zone.WARN),
    ("just under the second", 2 * GIB - 1, Zone.OK, Zone.EMERGENCY),
    ("just under the third", GIB - 1, Zone.OK, Zone.FLOOR),
    ("a breath over the first is not out of it", 4 * GIB + 511 * MIB, Zone.WARN, Zone.WARN),
    ("an eighth over the first is", 4 * GIB + 512 * MIB, Zone.WARN, Zone.OK),
    ("a breath over the second", 2 * GIB + 255 * MIB, Zone.EMERGENCY, Zone.EMERGENCY),
    ("an eighth over the second is still under the first", 2 * GIB + 256 * MIB, Zone.EMERGENCY, Zone.WARN),
    ("a breath over the third", GIB + 127 * MIB, Zone.FLOOR, Zone.FLOOR),
    ("from the depth to the top in one breath", 20 * GIB, Zone.FLOOR, Zone.OK),
    ("nothing left at all", 0, Zone.WARN, Zone.FLOOR),
]


@pytest.mark.parametrize(("available", "before", "zone"), [row[1:] for row in ZONES], ids=[row[0] for row in ZONES])
def test_a_zone_begins_at_its_line_and_is_left_a_little_above(available: int, before: Zone, zone: Zone) -> None:
    assert zone_of(available, USUAL, before) is zone


def test_where_there_is_no_line_there_is_no_zone() -> None:
    assert {zone_of(0, Lines(0, 0, 0), before) for before in Zone} == {Zone.OK}
    assert zone_of(0, Lines(4 * GIB, 0, 0), Zone.OK) is Zone.WARN


@pytest.mark.parametrize("zone", list(Zone))
def test_each_zone_names_its_line(zone: Zone) -> None:
    assert USUAL.of(zone) == {Zone.OK: 4 * GIB, Zone.WARN: 4 * GIB, Zone.EMERGENCY: 2 * GIB, Zone.FLOOR: GIB}[zone]


SIZES = [
    ("of a size that is not known", 0, MemoryLimits(), USUAL),
    ("large enough", 16 * GIB, MemoryLimits(), USUAL),
    ("half of that", 8 * GIB, MemoryLimits(), Lines(2 * GIB, GIB, GIB // 2)),
    ("tiny", GIB, MemoryLimits(), Lines(256 * MIB, 128 * MIB, 64 * MIB)),
    ("lines of one's own", 8 * GIB, MemoryLimits(warn_below_bytes=5 * GIB, emergency_below_bytes=3 * GIB), Lines(5 * GIB, 3 * GIB, GIB // 2)),
    ("a chosen second line lifts the first", 4 * GIB, MemoryLimits(emergency_below_bytes=3 * GIB // 2), Lines(3 * GIB // 2, 3 * GIB // 2, GIB // 4)),
    ("a chosen third line lifts both", 4 * GIB, MemoryLimits(hard_floor_bytes=5 * GIB // 4), Lines(5 * GIB // 4, 5 * GIB // 4, 5 * GIB // 4)),
    ("no line stays none", 4 * GIB, MemoryLimits(warn_below_bytes=0, emergency_below_bytes=0), Lines(0, 0, GIB // 4)),
    ("over one that is none", 4 * GIB, MemoryLimits(emergency_below_bytes=0, hard_floor_bytes=5 * GIB // 4), Lines(5 * GIB // 4, 0, 5 * GIB // 4)),
]


@pytest.mark.parametrize(("total", "limits", "found"), [row[1:] for row in SIZES], ids=[row[0] for row in SIZES])
def test_the_default_lines_shrink_with_the_machine_and_chosen_ones_stand(total: int, limits: MemoryLimits, found: Lines) -> None:
    assert lines(limits, total) == found


@pytest.mark.parametrize("total", [4 * GIB, 6 * GIB, 8 * GIB])
def test_a_small_machine_that_is_half_in_use_by_others_stops_nobody(total: int) -> None:
    zone = zone_of(2 * GIB, lines(MemoryLimits(), total), Zone.OK)

    assert zone in {Zone.OK, Zone.WARN}


def test_the_nearer_the_line_the_sooner_somebody_looks() -> None:
    pauses = [pause_s(available, USUAL) for available in range(0, 20 * GIB, 64 * MIB)]

    assert pauses == sorted(pauses)
    assert pauses[0] == PAUSE_MIN_S
    assert pauses[-1] == PAUSE_MAX_S
    assert pause_s(4 * GIB, USUAL) * 16e9 <= 2 * GIB / 2 * 1.01, "at the highest rate half of the way is left at the next look"
