"""What a training shows of itself before its first batch is over: the phase it is in, and what earlier attempts did."""

from pathlib import Path
from types import SimpleNamespace

from workers.report import Job, Report
from workers.yolo.watch import Watch


def a_trainer(*, start_epoch: int) -> SimpleNamespace:
    """Return what ultralytics' trainer has of itself when it begins: 10 batches of training and 2 of validation."""
    return SimpleNamespace(train_loader=range(10), test_loader=range(2), start_epoch=start_epoch, epoch=start_epoch)


def where(report: Report) -> tuple[str, float]:
    """Return the phase, and how many percent are done."""
    beat = report.beat()
    return beat.phase, round(100 * beat.done / beat.total)


def test_the_first_batch_is_of_the_training_and_not_of_the_look_at_the_data_set(tmp_path: Path) -> None:
    report = Report(Job(id="j-1", attempt=1, kind="yolo.train", params=None, dir=tmp_path))
    watch = Watch(report, epochs=4, batch=8)
    told = watch.callbacks()

    watch.checked(80, 80)
    before = where(report)
    told["on_train_start"](a_trainer(start_epoch=0))
    told["on_train_epoch_start"](a_trainer(start_epoch=0))
    told["on_train_batch_start"](a_trainer(start_epoch=0))

    assert [before, where(report)] == [("check data set", 2), ("train", 2)]


def test_an_attempt_that_goes_on_begins_where_the_one_before_it_was_saved(tmp_path: Path) -> None:
    report = Report(Job(id="j-1", attempt=2, kind="yolo.train", params=None, dir=tmp_path))
    watch = Watch(report, epochs=4, batch=8, epochs_done=2)

    watch.checked(0, 80)
    first = where(report)
    watch.checked(80, 80)
    watch.callbacks()["on_train_start"](a_trainer(start_epoch=2))

    assert [first, where(report)] == [("check data set", 49), ("train", 49)]
