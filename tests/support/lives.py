"""Random lives of the arena: everything that can go wrong with a device in any order, and what must hold all the same."""

import random
from dataclasses import dataclass
from functools import partial
from typing import Final

from supervisor.core.limits import GIB
from supervisor.core.line import WHOLE_SCALE
from supervisor.core.model import Exit, LeaseState, WorkerName, WorkerState
from tests.support.arena import Arena, Program, Task, arena_limits

AGE_STEP_S: Final = 0.5
BUSY_S: Final = 25.0
PEACE_S: Final = 900.0
HOLD_MAX_S: Final = 10.5
"""The longest hold in these lives: of a program 8 s; of work without checkpoints 8 s, and from one checkpoint to the next 2 s, after 2.5 s of loading."""
HAND_OVER_MAX_S: Final = 8.5
"""The longest hand-over: 1 s to leave, 3 s until the memory is back, 2 s to the next look and 0.2 s for the proof, after 2 s until the next tick."""
TROUBLE_MAX_S: Final = 45.0 + 30.0 + HOLD_MAX_S + HAND_OVER_MAX_S
"""What one trouble may cost: a stranger of 45 s, a hand-over refused after vacate_timeout, and the turn of a holder that begins anew."""


@dataclass
class Outcome:
    """One life. worst_s: the wait of a program that came nearest to its bound, bound_s, with no trouble meanwhile; story: what was wrong, or empty."""

    grants: int
    decisions: int
    doubles: int
    lost: int
    worst_s: float
    bound_s: float
    troubled: int
    served: int
    sam_is_back: bool
    story: str


def bound_s(priority: int, ahead: int, *, age_step_s: float, hold_s: float, hand_over_s: float, gives_way: bool = True) -> float:
    """Return how long a program may have to wait, as supervisor/DESIGN.md derives it.

    ahead: who stood in the line as it came, or was at work; hold_s, hand_over_s: the longest. gives_way: some work holds the device for longer, and gives way
    at its checkpoints to who is overdue; without such work the program waits for its own level alone.
    """
    levels = max(WHOLE_SCALE, priority) if gives_way else priority
    return levels * age_step_s + (ahead + 1) * (hold_s + hand_over_s) + hand_over_s


def live(seed: int) -> Outcome:
    """Live one life, the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311  # dice, not keys
    arena = Arena(arena_limits(age_step_s=AGE_STEP_S, max_hold_s=dice.choice([0.0, 0.0, 15.0])))
    arena.exit_s, arena.release_s, arena.load_s = dice.choice([0.1, 0.3, 1.0]), dice.choice([0.0, 0.5, 2.0, 3.0]), dice.choice([0.5, 2.5])
    _people(arena, dice)
    _faults(arena, dice)
    arena.run(BUSY_S)
    for program in arena.programs.values():
        program.again_s = None
    while arena.now_s < BUSY_S + PEACE_S and (arena.under_way or not at_peace(arena)):
        arena.run(arena.now_s + 5.0)
    return _outcome(arena)


def _people(arena: Arena, dice: random.Random) -> None:
    for number in range(dice.randint(2, 6)):
        program = Program(f"p{number}", 900 + number, dice.choice([0, 10, 15, 20]), dice.uniform(0.2, 8.0), dies=dice.random() < 0.15)
        program.again_s, program.timeout_s = dice.choice([None, None, 0.1, 2.0]), dice.choice([4.0, 20.0])
        arena.at(dice.uniform(0.5, BUSY_S - 5), partial(arena.lock, program))
    for number in range(dice.randint(1, 3)):
        task = dice.choice([_short, _with_checkpoints, _with_checkpoints, _long])(dice)
        kind = dice.choice(["sam.do", "yolo.do"])
        arena.at(dice.uniform(0.5, BUSY_S - 5), partial(arena.submit, f"j{number}", kind, task, dice.choice([0, 10, 15, 20])))


def _short(dice: random.Random) -> Task:
    return Task(dice.randint(1, 4), dice.uniform(0.2, 2.0), saves=False)


def _with_checkpoints(dice: random.Random) -> Task:
    return Task(dice.randint(4, 20), dice.uniform(0.2, 2.0), saves=True)


def _long(dice: random.Random) -> Task:
    return Task(40, dice.uniform(1.0, 2.0), saves=True)


def _faults(arena: Arena, dice: random.Random) -> None:
    for number in range(dice.choice([0, 0, 1, 2, 3, 5])):
        at_s, fault = dice.uniform(1.0, BUSY_S), dice.random()
        if fault < 0.3:
            arena.at(at_s, partial(_crash, arena, dice.choice(["sam-0", "yolo-0"])))
        elif fault < 0.6:
            arena.at(at_s, partial(_restart, arena, dice.choice([0.001, 0.3, 3.0])))
        elif fault < 0.75:
            arena.at(at_s, partial(arena.stranger, str(number), dice.choice([4, 12]) * GIB, dice.uniform(1.0, 45.0)))
        elif fault < 0.85:
            arena.at(at_s, partial(_unreadable, arena, dice.uniform(1.0, 5.0)))
        else:
            arena.at(at_s, partial(setattr, arena, "release_s", dice.choice([0.0, 2.0, 3.0])))


def _crash(arena: Arena, name: str) -> None:
    process = arena.processes.get(WorkerName(name))
    if process is not None and process.alive:
        arena.trouble(5.0)
        arena.end(process, Exit("signal", 11, "SIGSEGV"))


def _restart(arena: Arena, down_s: float) -> None:
    if arena.up:
        arena.trouble(down_s + 2.0)
        arena.kill()
        arena.at(down_s, arena.start)


def _unreadable(arena: Arena, for_s: float) -> None:
    arena.readable = False
    arena.trouble(for_s)
    arena.at(for_s, partial(setattr, arena, "readable", True))


def at_peace(arena: Arena) -> bool:
    """Return whether all work has ended, nobody waits, and SAM has the device again, alone."""
    held = [(lease.owner, lease.state) for lease in arena.fleet.leases.values()]
    sam = arena.fleet.workers[WorkerName("sam-0")]
    return not arena.unfinished() and not arena.fleet.waiters and sam.state is WorkerState.READY and held == [("sam-0", LeaseState.HELD)]


def _outcome(arena: Arena) -> Outcome:
    waits = [(wait.waited_s, _bound(wait.priority, wait.ahead), wait.troubles) for wait in arena.waits]
    calm = [(waited_s, limit_s) for waited_s, limit_s, troubles in waits if not troubles]
    worst_s, worst_bound_s = max(calm, key=lambda pair: pair[0] / pair[1], default=(0.0, 1.0))
    late = [f"a wait of {waited_s:.1f} s, at most {limit_s:.1f} s" for waited_s, limit_s in calm if waited_s > limit_s]
    late += [f"a wait of {one:.1f} s with {more} troubles" for one, limit_s, more in waits if one > limit_s + more * TROUBLE_MAX_S]
    back = at_peace(arena)
    standing = "" if back else f"no peace: {arena.unfinished()}, {[(lease.owner, lease.state) for lease in arena.fleet.leases.values()]}"
    story = "; ".join([words for _, words in arena.wrongs] + late + ([standing] if standing else []))
    kinds = [kind for kind, _ in arena.wrongs]
    return Outcome(
        grants=arena.grants,
        decisions=arena.decisions,
        doubles=kinds.count("double"),
        lost=kinds.count("lost"),
        worst_s=worst_s,
        bound_s=worst_bound_s,
        troubled=sum(1 for *_, troubles in waits if troubles),
        served=len(waits),
        sam_is_back=back,
        story=story,
    )


def _bound(priority: int, ahead: int) -> float:
    return bound_s(priority, ahead, age_step_s=AGE_STEP_S, hold_s=HOLD_MAX_S, hand_over_s=HAND_OVER_MAX_S)
