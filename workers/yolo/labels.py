"""Looks at the pictures and label files of a data set, one by one: can they be read, and do they mean something."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct
from PIL import Image

PICTURES: Final = frozenset(f".{kind}" for kind in ("bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"))
SMALLEST: Final = 10  # pixels; ultralytics leaves smaller pictures out without a word to the caller
ROUNDING: Final = 0.01  # ultralytics takes a coordinate this far outside for rounding

BOX: Final = 5  # numbers in a line: class and box
POLYGON: Final = 7  # numbers in a line, at least: class and three corners
FORM: Final = "`class x y width height`, or `class x1 y1 x2 y2 x3 y3 ...` for an outline"


class Checked(Struct, frozen=True):
    """What was found at one picture. boxes: how many objects its label file holds; 0 with no problem is a background."""

    boxes: int
    problems: tuple[str, ...]


def check_pictures(pictures: Iterable[Path], *, classes: Sequence[str]) -> Iterator[Checked]:
    """Yield what was found, picture by picture, in their order."""
    for picture in pictures:
        problem = picture_problem(picture)
        boxes, wrong = check_labels(label_file(picture), classes=classes)
        yield Checked(boxes=boxes, problems=(*([problem] if problem else []), *wrong))


def label_file(picture: Path) -> Path:
    """Return where ultralytics looks for the labels: the last folder named images becomes labels, the suffix .txt."""
    before, found, after = str(picture).rpartition(f"{os.sep}images{os.sep}")
    renamed = f"{before}{os.sep}labels{os.sep}{after}" if found else str(picture)
    return Path(renamed.rpartition(".")[0] + ".txt")


def picture_problem(picture: Path) -> str:
    """Return a sentence when the file is not a picture that can be trained on, else nothing.

    The head and the checksums are read; a JPEG without its end mark is read whole, because it may be cut off.
    """
    expected = "Expected: a whole picture. Mend or remove the file."
    if not picture.is_file():
        return f"{picture}: there is no such file. Check the path."
    try:
        with Image.open(picture) as image:
            width, height = image.size
            whole = image.format not in {"JPEG", "MPO"} or _ends_well(picture)
            image.verify()
        if not whole:
            with Image.open(picture) as image:
                image.load()
    except (Image.UnidentifiedImageError, ImportError):  # ultralytics replaces Image.open: it wants one more package for what is no known picture
        return f"{picture}: is no picture ({picture.stat().st_size} bytes of another kind). {expected}"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{picture}: cannot be read ({' '.join(str(error).split())[:120]}; {picture.stat().st_size} bytes). {expected}"
    if min(width, height) < SMALLEST:
        return f"{picture}: has {width} x {height} pixels. Expected: at least {SMALLEST} x {SMALLEST}. Remove the file."
    return ""


def check_labels(file: Path, *, classes: Sequence[str]) -> tuple[int, list[str]]:
    """Return how many objects the label file holds, and a sentence for each line that is wrong. No file: none of both."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return 0, []
    except (OSError, UnicodeDecodeError) as error:
        return 0, [f"{file}: cannot be read ({error}). Expected: text, one line for each object, {FORM}. Mend or remove the file."]
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    problems = [f"{file}:{number}: {problem}" for number, row in rows if (problem := _row_problem(row, classes=classes))]
    if not problems and any(len(row) == BOX for _, row in rows) and any(len(row) > BOX for _, row in rows):
        number = next(number for number, row in rows if len(row) != len(rows[0][1]))
        problems = [f"{file}:{number}: boxes and outlines in one file. Expected: only one of both. Mend the file."]
    return len(rows), problems


def _row_problem(row: Sequence[str], *, classes: Sequence[str]) -> str:
    """Return what is wrong with one line of a label file, or nothing."""
    found = " ".join(row)[:80]
    if len(row) != BOX and (len(row) < POLYGON or len(row) % 2 == 0):
        return f"found {len(row)} values ({found}), expected {FORM}. Mend the line."
    try:
        numbers = [float(value) for value in row]
    except ValueError:
        return f"found {found!r}, expected numbers: {FORM}. Mend the line."
    if not all(map(math.isfinite, numbers)):
        return f"found {found!r}, expected finite numbers. Mend the line."
    if not (numbers[0].is_integer() and 0 <= numbers[0] < len(classes)):
        return f"found class {row[0]}, expected a whole number from 0 to {len(classes) - 1} ({', '.join(classes)[:80]}). Mend the line, or add the name."
    outside = [value for value in numbers[1:] if not -ROUNDING <= value <= 1 + ROUNDING]
    if outside:
        return f"found {outside[0]:g} ({found}), expected parts of the picture's width and height, from 0 to 1. Divide pixels by the picture's size."
    if len(row) == BOX and min(numbers[3:]) <= 0:
        return f"found a box of {numbers[3]:g} x {numbers[4]:g}, expected a width and a height above 0. Mend the line."
    return ""


def _ends_well(picture: Path) -> bool:
    with picture.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"
