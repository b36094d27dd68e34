"""The flight recorder: the last minute of each process, no longer than it lives, and its row of blocks."""

import pytest
from msgspec.structs import replace

from supervisor.core.events import JobAccepted, JobEnded, JobFinished
from supervisor.core.model import Fleet, Job, JobId, JobStatus, Process, Worker, WorkerName, WorkerState
from supervisor.runtime.flight import FlightRecorder
from supervisor.runtime.sparkline import sparkline

SAM = WorkerName("sam-0")


class Recorded:
    """A fleet of one worker at work, with an RSS that a test sets."""

    def __init__(self) -> None:
        process = Process(spawned_at_s=0.0, pid=7, device_bytes=5)
        worker = Worker(name=SAM, model="sam", state=WorkerState.BUSY, generation=3, process=process, jobs=(JobId("j-1"),), memory_bytes=90)
        job = Job(id=JobId("j-1"), kind="k", status=JobStatus.RUNNING, phase="train", done=2.0, total=9.0)
        self.fleet = Fleet(workers={SAM: worker}, jobs={job.id: job}, available_bytes=1000)
        self.rss = 100
        self.recorder = FlightRecorder(fleet=lambda: self.fleet, rss_bytes=lambda pid: self.rss if pid == 7 else 0)

    def change(self, **fields: object) -> None:
        self.fleet = replace(self.fleet, workers={SAM: replace(self.fleet.workers[SAM], **fields)})


def test_a_sample_says_what_the_worker_used_and_where_its_job_was() -> None:
    recorded = Recorded()

    recorded.recorder.sample(5.0)

    (one,) = recorded.recorder.of(SAM, 3)
    assert (one.at_wall, one.rss_bytes, one.pss_bytes, one.available_bytes, one.device_bytes) == (5.0, 100, 90, 1000, 5)
    assert (one.job, one.phase, one.done, one.total) == ("j-1", "train", 2.0, 9.0)
    assert recorded.recorder.of(SAM, 2) == ()


def test_a_minute_is_kept_and_no_more() -> None:
    recorded = Recorded()

    for second in range(200):
        recorded.rss = 1 + second
        recorded.recorder.sample(float(second))

    record = recorded.recorder.of(SAM, 3)
    assert (len(record), record[0].at_wall, record[-1].rss_bytes) == (60, 140.0, 200)


def test_a_process_that_died_keeps_its_record_until_its_tree_is_proved_gone() -> None:
    recorded = Recorded()
    recorded.recorder.sample(1.0)

    recorded.rss = 0
    recorded.recorder.sample(2.0)
    assert [one.at_wall for one in recorded.recorder.of(SAM, 3)] == [1.0]

    recorded.change(process=None)
    recorded.recorder.sample(3.0)
    assert recorded.recorder.of(SAM, 3) == ()


def test_a_new_generation_begins_a_record_of_its_own() -> None:
    recorded = Recorded()
    recorded.recorder.sample(1.0)
    recorded.change(generation=4)

    recorded.recorder.sample(2.0)

    assert [one.at_wall for one in recorded.recorder.of(SAM, 4)] == [2.0]


@pytest.mark.parametrize(("reason", "samples"), [("memory_emergency", 1), ("gpu_oom", 1), ("user_error", 0)])
def test_a_job_that_ends_by_itself_for_want_of_memory_takes_the_record_along(reason: str, samples: int) -> None:
    recorded = Recorded()
    recorded.recorder.sample(1.0)

    event = recorded.recorder.with_record(JobEnded(worker=SAM, generation=3, job=JobId("j-1"), attempt=1, reason=reason))

    assert isinstance(event, JobEnded)
    assert len(event.flight) == samples


def test_one_that_is_given_work_in_its_first_second_has_a_record_and_later_jobs_add_nothing() -> None:
    recorded = Recorded()
    accepted = JobAccepted(worker=SAM, generation=3, job=JobId("j-1"), attempt=1)

    assert recorded.recorder.with_record(accepted) is accepted
    recorded.recorder.with_record(accepted)
    recorded.recorder.with_record(replace(accepted, generation=2))

    assert [one.rss_bytes for one in recorded.recorder.of(SAM, 3)] == [100]
    assert recorded.recorder.of(SAM, 2) == ()


def test_other_events_are_left_as_they_are() -> None:
    event = JobFinished(worker=SAM, generation=3, job=JobId("j-1"), attempt=1)

    assert Recorded().recorder.with_record(event) is event


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([], ""),
        ([5], "█"),
        ([3, 3, 3], "███"),
        ([100, 98, 99], "███"),
        ([0, 0], "▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([700, 0, 350], "█▁▅"),
        ([-1, 1], "▁█"),
    ],
)
def test_a_row_of_blocks(values: list[float], row: str) -> None:
    assert sparkline(values) == row
