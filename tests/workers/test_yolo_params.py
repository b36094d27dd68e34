"""The YOLO worker's params: what fits, what is refused, what the trainer is told."""

import msgspec
import pytest

from workers.base import BadInput
from workers.yolo.params import Options, PredictParams, TrainParams, check_image_size


def test_a_training_needs_only_its_data() -> None:
    params = msgspec.convert({"data": "set"}, TrainParams)

    assert (params.epochs, params.batch, params.image_size) == (100, 16, None)


def test_the_trainer_is_told_the_knobs_under_its_own_names() -> None:
    knobs = TrainParams(data="set", epochs=7, optimizer="AdamW", lr0=0.002, mosaic=0, nbs=8, patience=0, freeze=3).knobs()

    assert {name: knobs[name] for name in ("epochs", "optimizer", "lr0", "mosaic", "nbs", "patience", "freeze")} == {
        "epochs": 7,
        "optimizer": "AdamW",
        "lr0": 0.002,
        "mosaic": 0,
        "nbs": 8,
        "patience": 7,
        "freeze": 3,
    }


def test_a_learning_rate_that_would_be_ignored_is_refused() -> None:
    with pytest.raises(BadInput, match=r"lr0 = 0\.01 would have no effect"):
        TrainParams(data="set", lr0=0.01).knobs()


def test_a_training_has_one_source() -> None:
    with pytest.raises(msgspec.ValidationError, match="found neither data nor masks, expected exactly one of them"):
        msgspec.convert({}, TrainParams)
    with pytest.raises(msgspec.ValidationError, match="found both data and masks"):
        msgspec.convert({"data": "set", "masks": {"video": "v", "masks_dir": "m"}}, TrainParams)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"data": ""},
        {"data": "set", "masks": {"video": "v", "masks_dir": "m"}},
        {"masks": {"video": "v"}},
        {"masks": {"video": "v", "masks_dir": "m", "val_share": 1}},
        {"data": "set", "epochs": 0},
        {"data": "set", "epochs": "many"},
        {"data": "set", "batch": 0},
        {"data": "set", "optimizer": "adamw"},
        {"data": "set", "lr0": 0},
        {"data": "set", "mosaic": 2},
        {"data": "set", "image_size": 32},
        {"data": "set", "lr": 0.1},
    ],
)
def test_params_that_do_not_fit_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(params, TrainParams)


def test_pictures_to_predict_on_may_be_one_or_many_but_not_none() -> None:
    assert msgspec.convert({"image": "a.jpg"}, PredictParams).image == "a.jpg"
    assert msgspec.convert({"image": ["a.jpg", "b.jpg"]}, PredictParams).image == ["a.jpg", "b.jpg"]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"image": []}, PredictParams)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"wieghts": "yolo11n.pt"}, Options)


def test_an_image_size_that_the_network_cannot_take_is_refused_with_its_neighbours() -> None:
    assert check_image_size(96, where="options") == 96
    with pytest.raises(BadInput, match="Say 96 or 128"):
        check_image_size(100, where="options")
