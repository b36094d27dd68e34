"""Programs that fight for one device in virtual time, again and again: who waits for how long."""

from collections.abc import Mapping

from tests.support.arena import Arena, Program, Task, arena_limits

AGE_STEP_S = 5.0
EXIT_S, RELEASE_S = 0.3, 1.5
HAND_OVER_S = EXIT_S + RELEASE_S + 2.0 + 0.2
"""The longest: the holder leaves, its memory comes back, the next look at the device comes two seconds later, and is proved by another."""


def fight(holds_s: Mapping[str, tuple[int, float]], *, for_s: float, again_s: float = 0.05) -> dict[str, list[float]]:
    """Return the waits of each program. holds_s: its priority, and how long it holds the device each time; again_s: so long after that it asks anew."""
    arena = _arena()
    programs = [
        Program(name, 900 + number, priority, hold_s, again_s=again_s, timeout_s=120.0) for number, (name, (priority, hold_s)) in enumerate(holds_s.items())
    ]
    for program in programs:
        arena.lock(program)
    return _waits(arena, for_s)


def against_endless_work(priority: int, *, work: int, for_s: float) -> dict[str, list[float]]:
    """Return the waits of a program of this priority that holds the device for 5 s, against so many jobs of priority 0 that never end and save every 5 s."""
    arena = _arena()
    for number in range(work):
        arena.submit(f"j-{number}", ("yolo.do", "sam.do")[number % 2], Task(10**9, 5.0, saves=True), 0)
    arena.at(20.0, lambda: arena.lock(Program("calm", 900, priority, 5.0, again_s=0.05, timeout_s=120.0)))
    return _waits(arena, for_s)


def _arena() -> Arena:
    arena = Arena(arena_limits(age_step_s=AGE_STEP_S, vacate_timeout_s=120.0))
    arena.exit_s, arena.release_s, arena.load_s = EXIT_S, RELEASE_S, 2.0
    return arena


def _waits(arena: Arena, for_s: float) -> dict[str, list[float]]:
    """Let it run, and return every wait, that of whoever still waits at the end too."""
    arena.run(for_s)
    if arena.wrongs:
        raise AssertionError(arena.wrongs[:3])
    waits: dict[str, list[float]] = {program.name: [] for program in arena.programs.values()}
    for wait in arena.waits:
        waits[wait.name].append(wait.waited_s)
    for program in arena.programs.values():
        if program.lease is None and program.tries:
            waits[program.name].append(arena.now_s - program.asked_at_s)
    return waits
