"""Finds the weights file that a model worker was asked for, and opens it without running what it holds.

The rule, in this order: a path to a file; a known name found in the weights folder; a known name downloaded into that
folder, where that is allowed; an untrained network, where that is allowed; else one clear error.
"""

import difflib
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec


class WeightsError(Exception):
    """No usable weights. The message says what was found, what was expected, where, and what to do."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is built from.

    path: the checkpoint; None means that an untrained network must be built.
    trained: whether the answers mean anything.  note: the sentence for log and result, empty for trained weights.
    """

    path: Path | None
    trained: bool
    note: str = ""


Fetch: TypeAlias = Callable[[str, Path], object]


def resolve(
    name: str,
    *,
    folder: Path,
    known: Collection[str],
    allow_download: bool,
    allow_untrained: bool,
    base: Path | None = None,
    fetch: Fetch | None = None,
) -> Weights:
    """Return where the weights called `name` are, or that an untrained network stands in for them.

    name: a path (it has a slash, or it is a file), or one of `known`.  folder: where known names are kept.
    base: what a relative path is relative to (the configuration's folder); the working folder if not given.
    fetch: writes the known name to the path, by default with the downloader of ultralytics.
    Raises WeightsError.
    """
    path = (base or Path()) / Path(name).expanduser()
    if name and path.is_file():
        return Weights(path=path.resolve(), trained=True)
    if not name or "/" in name or name not in known:
        raise WeightsError(_not_found(name, path=path, folder=folder, known=known))
    found = folder / name
    if found.is_file():
        return Weights(path=found.resolve(), trained=True)
    if allow_download:
        return Weights(path=_download(name, folder=folder, fetch=fetch or _fetch), trained=True)
    if allow_untrained:
        note = f'UNTRAINED NETWORK: no file "{name}" in {folder}, so the weights are random and the answers mean nothing'
        return Weights(path=None, trained=False, note=note)
    message = (
        f'No weights: "{name}" is in neither {path} nor {found}. Put the file into {folder}, or set '
        "allow_download = true to fetch it, or allow_untrained = true to run with random weights (for tests only)."
    )
    raise WeightsError(message)


def open_checked(path: Path, *, allow: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the checkpoint in `path` (tensors on the CPU, mapped from the file where its format permits it).

    Only tensors and plain containers are read, and the classes in `allow`; a file that wants to run anything else is
    refused. Raises WeightsError.
    """
    import torch

    if not path.is_file():
        raise WeightsError(f"No weights: there is no file {path}. Put it there, or name another one in the option weights.")
    try:
        with torch.serialization.safe_globals(list(allow)):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # broken bytes make the unpickler raise whatever its stack machine stumbles over, IndexError too
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        message = (
            f"Weights refused: {path} ({path.stat().st_size} bytes) is not a checkpoint that can be read safely ({reason}). "
            "A PyTorch file with tensors only was expected; fetch it again from where it came, or name another one."
        )
        raise WeightsError(message) from error
    if not isinstance(loaded, dict):
        message = f"Weights refused: {path} holds a {type(loaded).__name__}, a dictionary of tensors was expected; name another file in the option weights."
        raise WeightsError(message)
    return loaded


def _not_found(name: str, *, path: Path, folder: Path, known: Collection[str]) -> str:
    """Return the sentence for a name that is neither a file nor known."""
    if not name:
        return f"No weights: the option weights is empty. Name a file, or one of {', '.join(sorted(known))}."
    if path.is_dir():
        return f"No weights: {path} is a folder, a file was expected. Name the file in the option weights."
    near = difflib.get_close_matches(Path(name).name, list(known), n=1)
    hint = f' Did you mean "{near[0]}"?' if near and near[0] != name else ""
    kept = f" A known name without a folder is looked up in {folder}: {', '.join(sorted(known))}."
    return f'No weights: there is no file {path}, and "{name}" is no known name.{hint}{kept} Mend the option weights.'


def _download(name: str, *, folder: Path, fetch: Fetch) -> Path:
    """Return the file fetched into `folder`, whole or not at all."""
    print(f"weights: {name} is not in {folder}, downloading it", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The downloader picks the asset by the file's name and writes in place, so it gets a folder of its own:
        # a download that breaks off must not leave half a file under the name that the next start would trust.
        scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as error:
        raise WeightsError(f"No weights: the folder {folder} cannot be written ({error}). Mend it, or name another weights_dir.") from error
    try:
        fetch(name, scratch / name)
        if not (scratch / name).is_file():
            raise WeightsError(f'No weights: the download of "{name}" brought no file. Check the name and the network, or put the file into {folder}.')
        (scratch / name).replace(folder / name)
    except (OSError, RuntimeError) as error:  # ConnectionError is an OSError
        message = f'No weights: "{name}" is not in {folder} and its download failed ({error}). Check the network, or put the file there yourself.'
        raise WeightsError(message) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return (folder / name).resolve()


def _fetch(name: str, path: Path) -> None:
    """Download a released asset of ultralytics (never run where the tests run: they have no network)."""
    from ultralytics.utils.downloads import attempt_download_asset

    del name  # the downloader reads it from the path
    attempt_download_asset(path)


def _is_zip(path: Path) -> bool:
    """Whether the file has the zip form, the only one that torch can map into memory."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
