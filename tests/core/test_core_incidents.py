"""Every incident tells the story that is written below its rule, replays, and harms no process."""

from pathlib import Path

import pytest

from supervisor.core.decide import decide
from tests.support.script import INCIDENTS, Script, main, parts, play


@pytest.mark.parametrize("path", sorted(INCIDENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_the_incident_tells_its_story(path: Path) -> None:
    above, below = parts(path)

    script = Script(above)
    story = script.play()

    assert story == below, f"python -m tests.support.script --rewrite {path.stem}"
    assert "WRONG" not in story
    fleet = script.world.first
    for event, now_s, limits in script.world.journal:
        fleet = decide(fleet, event, limits, now_s).fleet
    assert fleet == script.world.fleet


@pytest.mark.parametrize("line", ["no such line", "@1 no-such-event", "@1 switch sam-0 no_such=1", "limit gpu.no_such=1", "@1 message sam-0 1 shout j-1 1"])
def test_a_line_that_is_no_line_of_an_incident_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no"):
        play(line)


def test_a_comment_after_an_event_is_no_part_of_it() -> None:
    assert play("@1 look   # as it is\n@2 end") == play("@1 look\n@2 end")


def test_an_incident_that_tells_another_story_is_named() -> None:
    said: list[str] = []

    assert main(["hand_over_and_back"], said.append) == 0
    assert said == []
