"""Options and parameters: what does not fit is refused with a sentence."""

from typing import Any, Literal

import pytest
from msgspec import Struct

from workers.given import held_to
from workers.report import BadInput


class Shape(Struct, frozen=True, kw_only=True):
    epochs: int = 3
    lr: float = 0.1
    device: Literal["auto", "cpu"] = "auto"
    boxes: list[list[float]] = []


def test_what_fits_is_the_struct_with_its_defaults() -> None:
    assert held_to(Shape, {"epochs": 5}, what="params") == Shape(epochs=5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1], "params: expected names with values, found list"),
        (None, "params: expected names with values, found NoneType"),
        ({"epoch": 1}, "params: epoch is unknown (did you mean epochs?)"),
        ({"zzz": 1}, "params: zzz is unknown (known are epochs, lr, device, boxes)"),
        ({"epochs": "3"}, "params.epochs: Expected `int`, got `str`"),
        ({"epochs": 2.5}, "params.epochs: Expected `int`, got `float`"),
        ({"device": "gpu"}, "params.device: Invalid enum value 'gpu'"),
        ({"boxes": [[1, "x"]]}, "params.boxes[0][1]: Expected `float`, got `str`"),
    ],
)
def test_what_does_not_fit_says_what_where_and_what_was_expected(values: Any, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        held_to(Shape, values, what="params")

    assert str(refused.value) == says
