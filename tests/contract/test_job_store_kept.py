"""The contract of a job store, second part: pages, idempotency keys, clean-up and what is left of it, events, marks, large results."""

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from supervisor.core.model import TERMINAL, Job, JobId, JobStatus
from supervisor.errors import StoreError
from supervisor.runtime.ports import JobStore, StreamEvent, Tombstone
from tests.contract.conftest import EVENTS_KEPT

pytestmark = pytest.mark.asyncio

NEVER = float("-inf")


def job(
    name: str,
    *,
    created: float = 1.0,
    status: JobStatus = JobStatus.QUEUED,
    ended: float | None = None,
    key: str = "",
    kind: str = "demo.count",
    attempt: int = 0,
) -> Job:
    """Return a small job."""
    return Job(
        id=JobId(name),
        kind=kind,
        status=status,
        attempt=attempt,
        created_wall=created,
        completed_wall=ended,
        idempotency_key=key,
        fingerprint=f"of {name}" if key else "",
    )


def event(number: int = 0, *, of: str | None = None) -> StreamEvent:
    """Return a small event."""
    return StreamEvent(at_wall=1.5, event="job_moved", worker="sam-0", job=of, reason="r", data={"done": number, "text": "ü", "deep": [1, None, {"x": 2.5}]})


async def pages(store: JobStore, limit: int, *, statuses: list[str] | None = None, kind: str = "") -> list[list[str]]:
    """Return the ids on each page, from the first to the last."""
    found: list[list[str]] = []
    cursor = ""
    while not found or cursor:
        jobs, cursor = await store.page(statuses=statuses or [], kind=kind, limit=limit, cursor=cursor)
        found.append([one.id for one in jobs])
    return found


# --- pages ---


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [["j-2"], ["j-5"], ["j-4"], ["j-3"], ["j-1"]]),
        (2, [["j-2", "j-5"], ["j-4", "j-3"], ["j-1"]]),
        (4, [["j-2", "j-5", "j-4", "j-3"], ["j-1"]]),
        (5, [["j-2", "j-5", "j-4", "j-3", "j-1"]]),
        (50, [["j-2", "j-5", "j-4", "j-3", "j-1"]]),
    ],
)
async def test_pages_lead_through_all_jobs_once_also_those_of_one_instant(store: JobStore, limit: int, expected: list[list[str]]) -> None:
    for name, created in (("j-1", 1.0), ("j-2", 1_700_000_000.123456), ("j-3", 2.0), ("j-4", 2.0), ("j-5", 2.0)):
        await store.save(job(name, created=created))

    assert await pages(store, limit) == expected


async def test_a_store_without_jobs_has_one_empty_page(store: JobStore) -> None:
    assert await store.page(statuses=[], kind="", limit=3, cursor="") == ([], "")


async def test_a_page_holds_only_what_was_asked_for(store: JobStore) -> None:
    for number in range(9):
        await store.save(job(f"j-{number}", created=number, kind=("a", "b", "c")[number % 3], status=(JobStatus.QUEUED, JobStatus.RUNNING)[number % 2]))

    assert await pages(store, 1, kind="a") == [["j-6"], ["j-3"], ["j-0"]]
    assert await pages(store, 2, statuses=["running"]) == [["j-7", "j-5"], ["j-3", "j-1"]]
    assert await pages(store, 2, statuses=["running", "queued"], kind="b") == [["j-7", "j-4"], ["j-1"]]
    assert await pages(store, 2, statuses=["failed"]) == [[]]


async def test_jobs_that_come_or_go_between_two_pages_make_no_other_appear_twice_or_be_left_out(store: JobStore) -> None:
    for number in range(10):
        await store.save(job(f"j-{number}", created=number, status=JobStatus.COMPLETED, ended=100.0 + number))
    first, cursor = await store.page(statuses=[], kind="", limit=4, cursor="")

    await store.save(job("j-new", created=50.0))
    await store.save(job("j-back", created=2.5))  # the clock was set back meanwhile
    await store.expire(ended_before=106.5, gone_before=NEVER, keys_before=NEVER)  # 0 to 6, the one that the cursor stands on among them
    second, end = await store.page(statuses=[], kind="", limit=4, cursor=cursor)

    assert [one.id for one in first] == ["j-9", "j-8", "j-7", "j-6"]
    assert [one.id for one in second] == ["j-back"]
    assert end == ""


async def test_a_cursor_stays_good_while_its_job_changes(store: JobStore) -> None:
    for number in range(3):
        await store.save(job(f"j-{number}", created=number))
    _, cursor = await store.page(statuses=[], kind="", limit=1, cursor="")

    await store.save(job("j-2", created=2.0, status=JobStatus.RUNNING, attempt=1))

    rest, _ = await store.page(statuses=[], kind="", limit=5, cursor=cursor)
    assert [one.id for one in rest] == ["j-1", "j-0"]


@pytest.mark.parametrize("cursor", ["x", "nonsense!", "bm9uc2Vuc2U", "ü", "MS4w", "bmFuIGotMQ", "aW5mIGotMQ", "' OR 1", "A" * 5000])
async def test_a_cursor_that_is_none_is_refused_with_a_sentence(store: JobStore, cursor: str) -> None:
    with pytest.raises(ValueError, match=r'none of ours: expected "next" of the page before; leave it out to begin at the newest'):
        await store.page(statuses=[], kind="", limit=5, cursor=cursor)


# --- idempotency keys ---


async def test_a_key_leads_to_the_first_job_that_was_made_under_it(store: JobStore) -> None:
    assert await store.by_key("k") is None

    await store.save(job("j-1", key="k"))
    await store.save(job("j-2", key="k"))
    await store.save(job("j-3"))

    assert await store.by_key("k") == ("j-1", "of j-1")
    assert await store.by_key("") is None


async def test_a_key_runs_out_by_its_own_clock_and_a_later_write_of_its_job_does_not_bring_it_back(store: JobStore) -> None:
    await store.save(job("j-1", created=10.0, key="old"))
    await store.save(job("j-2", created=20.0, key="new"))

    await store.expire(ended_before=NEVER, gone_before=NEVER, keys_before=20.0)
    await store.save(job("j-1", created=10.0, key="old", status=JobStatus.RUNNING, attempt=1))

    assert await store.by_key("old") is None
    assert await store.by_key("new") == ("j-2", "of j-2")
    assert await store.find("j-1") is not None


async def test_a_key_outlives_its_job(store: JobStore) -> None:
    await store.save(job("j-1", created=10.0, key="k", status=JobStatus.COMPLETED, ended=11.0))

    await store.expire(ended_before=12.0, gone_before=NEVER, keys_before=NEVER)

    assert await store.by_key("k") == ("j-1", "of j-1")


# --- clean-up ---


async def test_jobs_that_ended_before_the_instant_leave_a_tombstone_and_nothing_else(store: JobStore) -> None:
    for number, status in enumerate(sorted(TERMINAL)):
        await store.save(job(f"j-{number}", status=status, ended=10.0 + number, attempt=1))
    await store.append_events([event(of="j-0"), event(of="j-2"), event()])

    expired = await store.expire(ended_before=12.0, gone_before=NEVER, keys_before=NEVER)

    assert list(expired) == ["j-0", "j-1"]
    assert await store.gone("j-0") == Tombstone(job=JobId("j-0"), kind="demo.count", status=min(TERMINAL).value, completed_wall=10.0)
    assert await store.find("j-0") is None
    assert await store.find("j-") is not None, "the only one that is left begins so"
    assert [one.id for one in await store.newest(statuses=[], kind="", limit=9)] == ["j-2"]
    assert sum((await store.counts()).values()) == 1
    assert [number for number, _ in await store.events_since(0, job="", limit=9)] == [2, 3]
    assert await store.gone("j-2") is None
    assert await store.gone("j-unknown") is None
    assert await store.gone("j-") is None


@pytest.mark.parametrize("status", [status for status in JobStatus if status not in TERMINAL])
async def test_a_live_job_is_never_cleaned_up(store: JobStore, status: JobStatus) -> None:
    await store.save(job("j-1", status=status, ended=1.0, attempt=1))

    expired = await store.expire(ended_before=1e12, gone_before=1e12, keys_before=1e12)

    assert list(expired) == []
    assert await store.find("j-1") is not None


async def test_a_late_write_does_not_bring_a_job_back(store: JobStore) -> None:
    ended = job("j-1", status=JobStatus.COMPLETED, ended=1.0, attempt=1, key="k")
    await store.save(ended)
    await store.expire(ended_before=2.0, gone_before=NEVER, keys_before=1e12)

    await store.save(ended)
    await store.save(replace(ended, status=JobStatus.RUNNING, attempt=2))

    assert await store.find("j-1") is None
    assert await store.by_key("k") is None


async def test_tombstones_go_as_well(store: JobStore) -> None:
    for number in (1, 2):
        await store.save(job(f"j-{number}", status=JobStatus.FAILED, ended=float(number)))
    await store.expire(ended_before=3.0, gone_before=NEVER, keys_before=NEVER)

    await store.expire(ended_before=3.0, gone_before=2.0, keys_before=NEVER)

    assert await store.gone("j-1") is None
    assert await store.gone("j-2") is not None


async def test_at_most_five_hundred_jobs_go_at_a_time_those_that_ended_first(store: JobStore) -> None:
    await asyncio.gather(*(store.save(job(f"j-{number:03}", status=JobStatus.COMPLETED, ended=1000.0 - number)) for number in range(503)))

    first = await store.expire(ended_before=2000.0, gone_before=NEVER, keys_before=NEVER)
    second = await store.expire(ended_before=2000.0, gone_before=NEVER, keys_before=NEVER)

    assert (len(first), first[0]) == (500, "j-502")
    assert list(second) == ["j-002", "j-001", "j-000"]


# --- events ---


async def test_events_come_back_as_they_were_with_rising_numbers(store: JobStore) -> None:
    assert await store.event_bounds() == (0, 0)

    first = await store.append_events([event(1), event(2, of="j-1")])
    second = await store.append_events([event(3)])

    assert [*first, *second] == [1, 2, 3]
    assert list(await store.events_since(0, job="", limit=9)) == [(1, event(1)), (2, event(2, of="j-1")), (3, event(3))]
    assert list(await store.events_since(1, job="", limit=1)) == [(2, event(2, of="j-1"))]
    assert list(await store.events_since(0, job="j-1", limit=9)) == [(2, event(2, of="j-1"))]
    assert list(await store.events_since(2, job="j-1", limit=9)) == []
    assert list(await store.events_since(3, job="", limit=9)) == []
    assert await store.event_bounds() == (1, 3)
    assert list(await store.append_events([])) == []


async def test_a_number_is_never_given_twice_also_when_all_events_are_gone(store: JobStore) -> None:
    await store.save(job("j-1", status=JobStatus.COMPLETED, ended=1.0))
    await store.append_events([event(of="j-1")] * 3)

    await store.expire(ended_before=2.0, gone_before=NEVER, keys_before=NEVER)

    assert await store.event_bounds() == (3, 3)
    assert list(await store.append_events([event()])) == [4]
    assert await store.event_bounds() == (4, 4)


async def test_of_events_that_belong_to_no_live_job_only_the_newest_are_kept(store: JobStore) -> None:
    await store.save(job("j-live"))
    await store.save(job("j-ended", status=JobStatus.COMPLETED, ended=100.0))
    await store.append_events([event(of="j-live"), event(of="j-ended"), event(of="j-unknown"), event()])
    await store.append_events([event()] * (EVENTS_KEPT - 1))

    await store.expire(ended_before=NEVER, gone_before=NEVER, keys_before=NEVER)

    kept = [number for number, _ in await store.events_since(0, job="", limit=1000)]
    assert kept == [1, 4, *range(5, 4 + EVENTS_KEPT)]
    assert await store.event_bounds() == (4, 3 + EVENTS_KEPT), "who has seen less than 3 is told that some are missing, whoever's old ones are kept"


async def test_of_a_live_jobs_events_the_newest_are_kept(store: JobStore) -> None:
    await store.save(job("j-long"))
    await store.save(job("j-short"))
    await store.append_events([event(of="j-short"), event(of="j-long"), event()])
    await store.append_events([event(of="j-long")] * (EVENTS_KEPT + 1))

    await store.expire(ended_before=NEVER, gone_before=NEVER, keys_before=NEVER)

    kept = [number for number, _ in await store.events_since(0, job="", limit=1000)]
    assert kept == [1, 3, *range(5, 5 + EVENTS_KEPT)]
    assert await store.event_bounds() == (5, 4 + EVENTS_KEPT)


async def test_an_event_that_json_cannot_hold_is_refused_with_all_that_came_with_it(store: JobStore) -> None:
    with pytest.raises(StoreError, match="event job_moved holds what JSON cannot"):
        await store.append_events([event(), replace(event(), data={"x": object()})])

    assert await store.event_bounds() == (0, 0)


async def test_what_is_done_to_an_event_afterwards_is_not_seen(store: JobStore) -> None:
    data = {"done": 1}
    await store.append_events([StreamEvent(at_wall=1.0, event="job_moved", data=data)])

    data["done"] = 2

    ((_, kept),) = await store.events_since(0, job="", limit=1)
    assert kept.data == {"done": 1}


# --- marks ---


async def test_marks_are_remembered_replaced_and_forgotten(store: JobStore) -> None:
    assert dict(await store.marks()) == {}

    await store.save_marks({"a": "1"})
    await store.save_marks({"b": "ü"})
    await store.save_marks({"a": "2"})
    assert dict(await store.marks()) == {"a": "2", "b": "ü"}
    await store.save_marks({"a": ""})
    await store.save_marks({"never": ""})

    assert dict(await store.marks()) == {"b": "ü"}


# --- large results ---

LARGE = {"masks": ["x" * 1000] * 300, "ü": None}


async def test_a_large_result_comes_back_whole_and_lists_show_only_its_size(store: JobStore) -> None:
    ended = replace(job("j-1", status=JobStatus.COMPLETED, ended=1.0, attempt=1), result=LARGE)
    await store.save(ended)
    await store.save(replace(ended, result="other"))

    found = await store.find("j-1")
    (listed,) = await store.newest(statuses=[], kind="", limit=5)
    (paged,), _ = await store.page(statuses=[], kind="", limit=5, cursor="")

    assert found == ended
    assert listed == paged == replace(ended, result={"omitted_bytes": len(msgspec.json.encode(LARGE))})


@pytest.mark.parametrize("large", [{"params": LARGE}, {"message": "x" * 300_000}])
async def test_what_is_large_for_another_reason_stays_whole(store: JobStore, large: dict[str, object]) -> None:
    ended = replace(job("j-1", status=JobStatus.COMPLETED, ended=1.0, attempt=1), result={"best": 1}, **large)

    await store.save(ended)

    assert list(await store.newest(statuses=[], kind="", limit=5)) == [ended]
