"""Reads the description of a YOLO data set, and says in plain sentences what is wrong with it before any training starts."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from workers.base import BadInput
from workers.yolo.labels import PICTURES, check_pictures

SHOWN: Final = 5  # so many problems are told one by one; the rest is counted
YAML_NAMES: Final = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")


class DataSet(Struct, frozen=True):
    """A data set that can be trained on: class names by index, and the pictures of both parts (absolute paths, sorted)."""

    yaml: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    val: tuple[Path, ...]

    def write(self, folder: Path) -> Path:
        """Write the description that the trainer gets: whole paths, nothing to download. Returns the new yaml."""
        folder.mkdir(parents=True, exist_ok=True)
        for part, pictures in (("train", self.train), ("val", self.val)):
            (folder / f"{part}.txt").write_text("".join(f"{picture}\n" for picture in pictures), encoding="utf-8")
        described = {"path": str(folder), "train": "train.txt", "val": "val.txt", "names": dict(enumerate(self.names))}
        yaml = folder / "data.yaml"
        yaml.write_bytes(msgspec.yaml.encode(described))
        return yaml


def read(data: Path, *, beat: Callable[[int, int], None] = lambda _done, _total: None) -> DataSet:
    """Return the data set that a yaml file, or the folder with one, describes, every picture and label looked at.

    beat: called with (pictures checked, pictures) as it goes on; it may raise to stop.
    A relative `path` in the yaml is relative to the yaml's folder, which is also the default.
    Raises BadInput with up to five problems.
    """
    yaml = _yaml_of(data)
    described = _described(yaml)
    names = _names(yaml, described)
    root = _root(yaml, described)
    parts = {part: _pictures(yaml, root, part, described) for part in ("train", "val")}
    total = sum(len(pictures) for pictures in parts.values())
    problems: list[str] = []
    counted = checked = 0
    for part, pictures in parts.items():
        labelled = 0
        for result in check_pictures(pictures, classes=names):
            labelled += result.boxes > 0
            counted += len(result.problems)
            problems.extend(result.problems[: SHOWN - len(problems)])
            checked += 1
            beat(checked, total)
        if not labelled and not counted:
            counted += 1
            problems.append(_no_labels(part, pictures))
    if problems:
        raise BadInput(_told(yaml, problems, counted))
    return DataSet(yaml=yaml, names=names, train=tuple(parts["train"]), val=tuple(parts["val"]))


def _told(yaml: Path, problems: Sequence[str], counted: int) -> str:
    more = f"\n... and {counted - len(problems)} more" if counted > len(problems) else ""
    return f"data set {yaml}: {counted} problem{'s' if counted > 1 else ''}, nothing was trained.\n" + "\n".join(problems) + more


def _yaml_of(data: Path) -> Path:
    """Return the yaml file itself."""
    if data.is_file():
        return data.absolute()
    if not data.exists():
        raise BadInput(f"data = {data} does not exist. Expected: a data set's yaml file, or the folder it lies in. Mend the path.")
    found = [data / name for name in YAML_NAMES if (data / name).is_file()] or sorted([*data.glob("*.yaml"), *data.glob("*.yml")])
    if len(found) == 1 or (found and found[0].name in YAML_NAMES):
        return found[0].absolute()
    if not found:
        what = "is empty" if not any(data.iterdir()) else "has no yaml file"
        raise BadInput(f"data = {data}: the folder {what}. Expected: a {YAML_NAMES[0]} with train, val and names. Write one, or name another folder.")
    raise BadInput(f"data = {data}: the folder has {len(found)} yaml files ({', '.join(file.name for file in found[:SHOWN])}). Name the one that is meant.")


def _described(yaml: Path) -> Mapping[str, Any]:
    """Return the yaml's keys and values."""
    try:
        described = msgspec.yaml.decode(yaml.read_bytes())
    except (msgspec.DecodeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"{yaml} is not YAML: {reason}. Expected: lines such as `train: images/train`. Mend the file.") from error
    if not isinstance(described, dict):
        raise BadInput(
            f"{yaml} holds {'nothing' if described is None else f'a {type(described).__name__}'}. Expected: the keys train, val and names. Mend the file."
        )
    if "validation" in described and "val" not in described:
        described["val"] = described.pop("validation")
    for key in ("train", "val", "names"):
        if described.get(key) in (None, "", [], {}):
            near = difflib.get_close_matches(key, [str(name) for name in described], n=1)
            hint = f" Is {near[0]} meant?" if near and near[0] != key else ""
            raise BadInput(f"{yaml} has no `{key}`, or an empty one. Found: {', '.join(map(str, described)) or 'nothing'}. Add it.{hint}")
    return described


def _names(yaml: Path, described: Mapping[str, Any]) -> tuple[str, ...]:
    names = described["names"]
    if isinstance(names, dict):
        try:
            by_index = {int(index): str(name) for index, name in names.items()}
        except (TypeError, ValueError) as error:
            raise BadInput(f"{yaml}: names has the key {next(iter(names))!r}. Expected: whole numbers from 0, each with its name. Mend it.") from error
        if sorted(by_index) != list(range(len(by_index))):
            raise BadInput(f"{yaml}: names has the numbers {sorted(by_index)}. Expected: 0 to {len(by_index) - 1}, none left out. Mend it.")
        names = [by_index[index] for index in range(len(by_index))]
    if not isinstance(names, list) or not all(isinstance(name, str | int | float) for name in names):
        raise BadInput(f"{yaml}: names is {names!r}. Expected: a list of class names, or numbers with names. Mend it.")
    count = described.get("nc", len(names))
    if count != len(names):
        raise BadInput(f"{yaml}: nc is {count!r}, but names has {len(names)} names. Mend the one that is wrong.")
    return tuple(str(name) for name in names)


def _root(yaml: Path, described: Mapping[str, Any]) -> Path:
    path = described.get("path") or "."
    if not isinstance(path, str):
        raise BadInput(f"{yaml}: path is {path!r}. Expected: the data set's folder. Mend it, or leave it out where the yaml lies in that folder.")
    root = (yaml.parent / Path(path).expanduser()).resolve()
    if not root.is_dir():
        raise BadInput(f"{yaml}: path says {path}, but there is no folder {root}. Mend it, or leave it out where the yaml lies in that folder.")
    return root


def _pictures(yaml: Path, root: Path, part: str, described: Mapping[str, Any]) -> list[Path]:
    """Return the part's pictures: those in its folders, those its lists name."""
    entries = described[part]
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BadInput(f"{yaml}: {part} is {entries!r}. Expected: a folder of pictures, a .txt file with their paths, or a list of those. Mend it.")
    pictures: set[Path] = set()
    for entry in entries:
        place = root / entry
        if place.is_dir():
            pictures.update(file for file in place.rglob("*") if file.suffix.lower() in PICTURES and file.is_file())
        elif place.suffix == ".txt" and place.is_file():
            pictures.update(_listed(place))
        else:
            what = "does not exist" if not place.exists() else "is neither a folder nor a .txt list"
            raise BadInput(f"{yaml}: {part} says {entry}, but {place} {what}. Expected: a folder of pictures. Mend `{part}` or `path`.")
    if not pictures:
        raise BadInput(f"{yaml}: {part} ({', '.join(entries)} in {root}) has no pictures. Expected: files such as *.jpg or *.png. Put some there.")
    return sorted(pictures)


def _listed(file: Path) -> Iterable[Path]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [(file.parent / line).resolve() for line in lines if line]


def _no_labels(part: str, pictures: Sequence[Path]) -> str:
    from workers.yolo.labels import label_file

    return (
        f"{part}: none of its {len(pictures)} pictures has a label. Expected, for {pictures[0]}: the file {label_file(pictures[0])} "
        "with a line `class x y width height` for each object. Put the label files there."
    )
