"""What a job's work sees: progress, orders to stop, pauses, critical sections, checkpoints."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.report import EmergencyBrake, Job, JobCancelled, Report, WorkerLeaves, WorkPauses


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(Job(id="j-1", attempt=2, kind="demo.count", params={}, dir=tmp_path))


def test_a_beat_says_where_the_job_is_now(report: Report) -> None:
    report.progress(3, 10, phase="train", metrics={"loss": 0.5})
    report.progress(4, 10, phase="train")

    beat = report.beat()

    assert (beat.job, beat.attempt, beat.phase, beat.done, beat.total, beat.critical) == ("j-1", 2, "train", 4.0, 10.0, "")
    assert beat.metrics == {"loss": 0.5}, "the last ones stay"


def test_a_beat_says_that_the_work_can_be_left_once_it_has_announced_or_saved_a_checkpoint(report: Report, source: Path) -> None:
    before = report.beat().resumable
    report.save_checkpoint(source)
    saved, other = report.beat().resumable, Report(report.job)
    other.will_checkpoint()

    assert (before, saved, other.beat().resumable) == (False, True, True)


@pytest.mark.parametrize("order", [JobCancelled("cancelled"), EmergencyBrake("1.8GiB available")])
def test_an_order_is_raised_at_the_next_progress_and_at_each_after_it(report: Report, order: BaseException) -> None:
    report.progress(1, 2)

    report.interrupt(order)

    for _ in range(2):
        with pytest.raises(type(order)):
            report.progress(2, 2)
    with pytest.raises(type(order)):
        report.check()
    assert report.beat().done == 2.0, "what was reported with it still counts"


def test_no_except_exception_of_a_library_swallows_an_order() -> None:
    assert not issubclass(JobCancelled, Exception)
    assert not issubclass(EmergencyBrake, Exception)


def test_the_first_order_stands(report: Report) -> None:
    report.interrupt(JobCancelled("cancelled"))
    report.interrupt(JobCancelled("the worker was asked to stop"))

    with pytest.raises(JobCancelled, match=r"^cancelled$"):
        report.check()


def test_an_order_waits_for_the_end_of_a_critical_section(report: Report) -> None:
    done = []

    with pytest.raises(JobCancelled), report.critical("saving"):  # noqa: PT012  # the section is the thing that is tested
        report.interrupt(JobCancelled("cancelled"))
        report.progress(1, 2)
        assert report.beat().critical == "saving"
        done.append("saved")

    assert done == ["saved"]
    assert report.beat().critical == ""


def test_an_error_in_a_critical_section_is_not_hidden_by_an_order(report: Report) -> None:
    with pytest.raises(OSError, match="no space"), report.critical("saving"):  # noqa: PT012  # the section is the thing that is tested
        report.interrupt(JobCancelled("cancelled"))
        raise OSError("no space")

    assert report.beat().critical == ""


def test_critical_sections_nest(report: Report) -> None:
    with report.critical("outer"):
        with report.critical("inner"):
            assert report.beat().critical == "inner"
        assert report.beat().critical == "outer"


def still_worker(report: Report) -> tuple[threading.Thread, threading.Event, list[BaseException]]:
    """Return a thread that reports once, an event for its going on, and what it raised."""
    went_on = threading.Event()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            report.progress(1, 2)
        except JobCancelled as order:
            raised.append(order)
        went_on.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread, went_on, raised


def test_a_job_holds_still_until_it_may_go_on(report: Report) -> None:
    report.hold_still()
    thread, went_on, raised = still_worker(report)

    assert not went_on.wait(0.1)
    report.go_on()

    assert went_on.wait(40)
    thread.join()
    assert raised == []


def test_a_job_that_holds_still_can_be_cancelled(report: Report) -> None:
    report.hold_still()
    thread, went_on, raised = still_worker(report)

    report.interrupt(JobCancelled("cancelled"))

    assert went_on.wait(40)
    thread.join()
    assert [str(order) for order in raised] == ["cancelled"]


def test_holding_still_after_an_order_changes_nothing(report: Report) -> None:
    report.interrupt(JobCancelled("cancelled"))
    report.hold_still()
    report.go_on()

    with pytest.raises(JobCancelled):
        report.check()


def test_a_checkpoint_is_a_whole_copy_and_replaces_the_last(report: Report, tmp_path: Path) -> None:
    source = tmp_path / "weights.pt"
    for text in ("one", "two"):
        source.write_text(text)
        report.save_checkpoint(source)

    assert (tmp_path / "checkpoint").read_text() == "two"
    assert not (tmp_path / "checkpoint.partial").exists()


def test_a_checkpoint_that_fails_leaves_the_last_one_whole(report: Report, tmp_path: Path) -> None:
    source = tmp_path / "weights.pt"
    source.write_text("one")
    report.save_checkpoint(source)

    with pytest.raises(FileNotFoundError):
        report.save_checkpoint(tmp_path / "nowhere")

    assert (tmp_path / "checkpoint").read_text() == "one"
    assert report.beat().critical == ""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What is saved as a checkpoint."""
    path = tmp_path / "weights.pt"
    path.write_text("one")
    return path


def test_a_pause_waits_for_the_checkpoint_that_was_announced(report: Report, source: Path) -> None:
    report.will_checkpoint()
    before = report.checkpoint_wanted

    report.pause()

    assert (before, report.checkpoint_wanted) == (False, True)
    report.progress(1, 2)
    report.check()
    with pytest.raises(WorkPauses, match="paused at its checkpoint"):
        report.save_checkpoint(source)
    assert (report.job.dir / "checkpoint").read_text() == "one"
    with pytest.raises(WorkPauses):
        report.check()


def test_a_pause_waits_for_the_next_checkpoint_once_there_was_one(report: Report, source: Path) -> None:
    report.save_checkpoint(source)

    report.pause()

    report.progress(1, 2)
    with pytest.raises(WorkPauses):
        report.save_checkpoint(source)


@pytest.mark.parametrize("look", ["progress", "check"])
def test_work_without_checkpoints_pauses_at_its_next_look(report: Report, look: str) -> None:
    report.pause()

    with pytest.raises(WorkPauses, match="what was not in a checkpoint is done again"):
        report.check() if look == "check" else report.progress(1, 2)


def test_a_pause_that_was_not_obeyed_is_undone(report: Report, source: Path) -> None:
    report.will_checkpoint()
    report.pause()

    report.resume()

    assert not report.checkpoint_wanted
    report.save_checkpoint(source)
    report.progress(2, 2)


def test_a_pause_that_was_obeyed_cannot_be_undone(report: Report) -> None:
    report.pause()
    with pytest.raises(WorkPauses):
        report.check()

    report.resume()

    with pytest.raises(WorkPauses):
        report.check()


def test_a_cancel_counts_more_than_a_pause(report: Report) -> None:
    report.will_checkpoint()
    report.pause()

    report.interrupt(JobCancelled("cancelled"))
    report.resume()

    with pytest.raises(JobCancelled, match=r"^cancelled$"):
        report.progress(1, 2)


def test_a_pause_counts_more_than_a_worker_that_leaves(report: Report, source: Path) -> None:
    report.leave_at_checkpoint("it is recycled")
    report.pause()

    with pytest.raises(WorkPauses):
        report.save_checkpoint(source)


def test_a_paused_job_whose_worker_must_leave_at_once_is_paused(report: Report) -> None:
    report.will_checkpoint()
    report.pause()

    report.interrupt(WorkerLeaves("the worker was asked to stop"))

    with pytest.raises(WorkPauses, match="before its next checkpoint, because its worker leaves: the worker was asked to stop"):
        report.check()


def test_a_pause_waits_for_the_end_of_a_critical_section(report: Report) -> None:
    done = []

    with pytest.raises(WorkPauses), report.critical("saving"):  # noqa: PT012  # the section is the thing that is tested
        report.pause()
        report.progress(1, 2)
        done.append("saved")

    assert done == ["saved"]


def test_a_checkpoint_within_a_critical_section_is_left_at_its_end(report: Report, source: Path) -> None:
    done = []

    with pytest.raises(WorkPauses), report.critical("saving all"):  # noqa: PT012  # the section is the thing that is tested
        report.pause()
        report.save_checkpoint(source)
        done.append("saved the rest")

    assert done == ["saved the rest"]


def test_a_job_that_holds_still_can_be_paused(report: Report) -> None:
    report.hold_still()
    thread, went_on, raised = still_worker(report)

    report.pause()

    assert went_on.wait(40)
    thread.join()
    assert [type(order) for order in raised] == [WorkPauses]


@pytest.mark.parametrize("leave", [lambda report: report.leave_at_checkpoint("recycled"), lambda report: report.interrupt(WorkerLeaves("stop"))])
def test_a_worker_that_leaves_wants_a_checkpoint_too(report: Report, leave: Callable[[Report], None]) -> None:
    leave(report)

    assert report.checkpoint_wanted


def test_the_first_change_after_each_wish_wakes_the_sender_once(report: Report, source: Path) -> None:
    woken: list[str] = []
    report.listen(lambda: woken.append("woken"))

    changes: list[Callable[[], None]] = [lambda: report.progress(1, 3), lambda: report.extend(60), lambda: report.save_checkpoint(source)]
    for change in changes:
        report.awaited = True
        change()
        report.progress(2, 3)

    assert woken == ["woken"] * 3
