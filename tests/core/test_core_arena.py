"""Who fights for a device in virtual time: nothing is granted twice, nothing is lost, nobody starves, and SAM is always back."""

from functools import partial
from typing import Final

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from supervisor.core.limits import GIB
from supervisor.core.model import Exit, WorkerName
from tests.support.arena import Arena, Program, Task, arena_limits
from tests.support.fights import AGE_STEP_S, HAND_OVER_S, against_endless_work, fight
from tests.support.lives import at_peace, bound_s, live

LIVES: Final = 250
FOUR: Final = {"microphone": (0, 10.0), "console": (10, 10.0), "default": (15, 10.0), "background": (20, 10.0)}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(5))
def test_random_lives_grant_nothing_twice_lose_nothing_starve_nobody_and_bring_sam_back(part: int) -> None:
    wrong = {seed: story for seed in range(part * LIVES // 5, (part + 1) * LIVES // 5) if (story := live(seed).story)}

    assert not wrong


def test_a_program_of_priority_20_is_served_inside_120_s_under_endless_load_of_priority_0() -> None:
    waits = fight({**{f"urgent-{number}": (0, 10.0) for number in range(3)}, "background": (20, 10.0)}, for_s=1200)

    assert len(waits["background"]) > 5
    assert 100 <= max(waits["background"]) <= 120


@pytest.mark.parametrize("work", [1, 2])
def test_a_program_of_priority_20_is_served_inside_120_s_by_a_holder_that_yields(work: int) -> None:
    waits = against_endless_work(20, work=work, for_s=1200)

    assert len(waits["calm"]) > 5
    assert 100 <= max(waits["calm"]) <= 120


def test_four_programs_of_four_priorities_fight_for_ten_minutes_and_the_bound_holds() -> None:
    waits = fight(FOUR, for_s=600)

    for name, (priority, hold_s) in FOUR.items():
        assert len(waits[name]) > 3
        assert max(waits[name]) <= bound_s(priority, len(FOUR) - 1, age_step_s=AGE_STEP_S, hold_s=hold_s, hand_over_s=HAND_OVER_S, gives_way=False)
    assert sorted(waits, key=lambda name: max(waits[name])) == list(FOUR)


class Fight(RuleBasedStateMachine):
    """People, programs and faults in any order; afterwards there is peace."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(arena_limits())
        self.count = 0

    def _name(self, first: str) -> str:
        self.count += 1
        return f"{first}{self.count}"

    @rule(priority=st.sampled_from([0, 10, 20]), hold_s=st.sampled_from([0.3, 4.0, 12.0]), dies=st.booleans(), timeout_s=st.sampled_from([1.0, 30.0]))
    def program(self, priority: int, hold_s: float, dies: bool, timeout_s: float) -> None:
        name = self._name("p")
        self.arena.lock(Program(name, 900 + self.count, priority, hold_s, dies=dies, timeout_s=timeout_s))

    @rule(kind=st.sampled_from(["sam.do", "yolo.do"]), priority=st.sampled_from([0, 10, 20]), steps=st.sampled_from([1, 8, 40]), saves=st.booleans())
    def job(self, kind: str, priority: int, steps: int, saves: bool) -> None:
        self.arena.submit(self._name("j"), kind, Task(steps, 1.0, saves), priority)

    @rule(worker=st.sampled_from(["sam-0", "yolo-0"]))
    def crash(self, worker: str) -> None:
        process = self.arena.processes.get(WorkerName(worker))
        if process is not None:
            self.arena.end(process, Exit("signal", 11, "SIGSEGV"))

    @rule(down_s=st.sampled_from([0.0, 0.4, 5.0]))
    def new_supervisor(self, down_s: float) -> None:
        self.arena.kill()
        self.arena.run(self.arena.now_s + down_s)
        self.arena.start()

    @rule(size=st.sampled_from([3, 13]), for_s=st.sampled_from([1.0, 50.0]))
    def stranger(self, size: int, for_s: float) -> None:
        self.arena.stranger(self._name("s"), size * GIB, for_s)

    @rule(release_s=st.sampled_from([0.0, 2.0]), readable=st.booleans())
    def device(self, release_s: float, readable: bool) -> None:
        self.arena.release_s, self.arena.readable = release_s, readable
        self.arena.at(4.0, partial(setattr, self.arena, "readable", True))

    @rule(seconds=st.sampled_from([0.01, 0.12, 0.9, 4.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.arena.run(self.arena.now_s + seconds)
        assert not self.arena.wrongs, self.arena.wrongs

    def teardown(self) -> None:
        end_s = self.arena.now_s + 3000.0
        while self.arena.now_s < end_s and not (at_peace(self.arena) and not self.arena.under_way and all(one.lease is None for one in self._alive())):
            self.arena.run(self.arena.now_s + 10.0)
        assert at_peace(self.arena), self.arena.fleet
        assert not self.arena.wrongs, self.arena.wrongs

    def _alive(self) -> list[Program]:
        return [program for program in self.arena.programs.values() if program.alive]


TestFight = Fight.TestCase
TestFight.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, phases=[Phase.generate], report_multiple_bugs=False)
