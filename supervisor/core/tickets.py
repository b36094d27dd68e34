"""The age of programs that wait: a ticket keeps it while they are away, and over the end of the supervisor."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from supervisor.core.actions import SaveMark
from supervisor.core.claims import Age
from supervisor.core.model import Ticket, Waiter
from supervisor.core.turn import Turn

TICKETS_KEPT: Final = 1000
TICKET_KEPT_S: Final = 600.0
"""A program that was told to come again later comes within that, with its age; so many of them are remembered."""
MARK: Final = "ticket "
"""The mark by which a ticket is known again: its value is the arrival, in seconds since 1970."""


def stored(marks: Mapping[str, str]) -> dict[Ticket, float]:
    """Return the arrival of each ticket that was written down; what cannot be read is left out, and its owner is as old as its next question."""
    found = {Ticket(name.removeprefix(MARK)): value for name, value in marks.items() if name.startswith(MARK)}
    return {ticket: float(value) for ticket, value in found.items() if value.replace(".", "", 1).isdigit()}


def take_back(turn: Turn, arrivals: Mapping[Ticket, float]) -> None:
    """Take over the ages of those who waited under the supervisor before, the newest of them; each comes again by itself."""
    oldest_first = sorted(arrivals.items(), key=lambda pair: pair[1])
    for ticket, _ in oldest_first[:-TICKETS_KEPT]:
        forget(turn, ticket)
    ages = {
        ticket: Age(arrived_at_s=turn.now_s - max(0.0, turn.wall_s - arrived_wall), left_at_s=turn.now_s)
        for ticket, arrived_wall in oldest_first[-TICKETS_KEPT:]
    }
    turn.fleet = replace(turn.fleet, tickets=ages)


def arrival(turn: Turn, ticket: Ticket) -> float:
    """Return since when somebody with this ticket waits, and write down that of a new one."""
    before, age = turn.fleet.waiters.get(ticket), turn.fleet.tickets.get(ticket)
    if before is not None:
        return before.arrived_at_s
    if age is not None:
        turn.fleet = replace(turn.fleet, tickets={name: other for name, other in turn.fleet.tickets.items() if name != ticket})
        if turn.now_s < age.left_at_s + TICKET_KEPT_S:
            return age.arrived_at_s
    turn.act(SaveMark(name=MARK + ticket, value=f"{turn.wall_s:.3f}", request=""))
    return turn.now_s


def keep(turn: Turn, waiter: Waiter) -> None:
    """Keep the age of a waiter that goes away. Those whose time is over are forgotten, and the oldest where there are too many."""
    ticket, tickets = waiter.outside.ticket, turn.fleet.tickets
    fresh = {name: age for name, age in tickets.items() if name != ticket and turn.now_s < age.left_at_s + TICKET_KEPT_S}
    newest = dict(list(fresh.items())[1 - TICKETS_KEPT :])
    for name in tickets.keys() - newest.keys() - {ticket}:
        forget(turn, name)
    turn.fleet = replace(turn.fleet, tickets={**newest, ticket: Age(arrived_at_s=waiter.arrived_at_s, left_at_s=turn.now_s)})


def forget(turn: Turn, ticket: Ticket) -> None:
    """Forget an age: its owner has what it waited for, or did not come again."""
    turn.act(SaveMark(name=MARK + ticket, value="", request=""))
