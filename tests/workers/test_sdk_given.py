"""Options and parameters: what does not fit is refused with a sentence."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta, Struct

from workers.given import held_to, named_path
from workers.report import BadInput


class Shape(Struct, frozen=True, kw_only=True):
    epochs: int = 3
    few: Annotated[int, Meta(ge=1)] = 1
    lr: float = 0.1
    device: Literal["auto", "cpu"] = "auto"
    boxes: list[Annotated[list[float], Meta(max_length=2)]] = []


def test_what_fits_is_the_struct_with_its_defaults() -> None:
    assert held_to(Shape, {"epochs": 5}, what="params") == Shape(epochs=5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1], "params: expected names with values, found list"),
        (None, "params: expected names with values, found NoneType"),
        ({"epoch": 1}, "params: epoch is unknown (did you mean epochs?)"),
        ({"zzz": 1}, "params: zzz is unknown (known are epochs, few, lr, device, boxes)"),
        ({"few": 0}, "params.few: Expected `int` >= 1, found 0"),
        ({"boxes": [[1.5], [1, 2, 3]]}, "params.boxes[1]: Expected `array` of length <= 2, found [1,2,3]"),
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


def test_a_relative_path_is_looked_for_beside_the_configuration_and_its_absence_is_said_with_both_folders(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").touch()

    found, whole = named_path("there.yaml", what="data", base=tmp_path), named_path("/nowhere/x.yaml", what="data", base=tmp_path)
    with pytest.raises(BadInput) as refused:
        named_path("nope.yaml", what="data", base=tmp_path)

    assert found == tmp_path / "there.yaml"
    assert whole == Path("/nowhere/x.yaml"), "whoever opens it says what is wrong with it"
    assert str(refused.value) == (
        f'data = "nope.yaml" does not exist, neither in the folder where the job was submitted nor in {tmp_path}, where supervisor.toml is. '
        "Check the path, or give the whole one."
    )
