"""The weights rule: a file, a known name, a download, an untrained network, each only where it is allowed."""

from pathlib import Path
from typing import Any

import pytest

from workers.weights import Weights, WeightsError, open_checked, resolve

KNOWN = ("net_s.pt", "net_l.pt")


def nothing_fetched(name: str, path: Path) -> None:
    pytest.fail(f"{name} was fetched to {path}")


def resolved(name: str, base: Path, **options: Any) -> Weights:
    given = {"allow_download": False, "allow_untrained": False, "fetch": nothing_fetched, **options}
    return resolve(name, folder=base / "weights", known=KNOWN, base=base, **given)


def test_a_path_to_a_file_wins_over_the_folder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for path in (tmp_path / "net_s.pt", tmp_path / "weights" / "net_s.pt"):
        path.write_bytes(b"x")

    assert resolved("net_s.pt", tmp_path) == Weights(path=tmp_path / "net_s.pt", trained=True)
    assert resolved(str(tmp_path / "weights" / "net_s.pt"), tmp_path).path == tmp_path / "weights" / "net_s.pt"
    assert resolved("weights/net_s.pt", tmp_path).path == tmp_path / "weights" / "net_s.pt"


def test_a_known_name_is_found_in_the_folder_before_anything_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "net_l.pt").write_bytes(b"x")

    found = resolved("net_l.pt", tmp_path, allow_download=True, allow_untrained=True)

    assert found == Weights(path=tmp_path / "weights" / "net_l.pt", trained=True)


def test_a_known_name_is_fetched_into_the_folder_where_that_is_allowed(tmp_path: Path) -> None:
    def fetch(name: str, path: Path) -> None:
        path.write_bytes(name.encode())

    found = resolved("net_s.pt", tmp_path, allow_download=True, fetch=fetch)

    assert found == Weights(path=tmp_path / "weights" / "net_s.pt", trained=True)
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["net_s.pt"]


def test_a_download_that_breaks_off_leaves_no_file_and_no_untrained_network(tmp_path: Path) -> None:
    def fetch(_name: str, path: Path) -> None:
        path.write_bytes(b"half")
        raise ConnectionError("the line is dead")

    with pytest.raises(WeightsError, match="the line is dead"):
        resolved("net_s.pt", tmp_path, allow_download=True, allow_untrained=True, fetch=fetch)

    assert list((tmp_path / "weights").iterdir()) == []


def test_an_untrained_network_is_said_in_capitals(tmp_path: Path) -> None:
    found = resolved("net_s.pt", tmp_path, allow_untrained=True)

    assert found.path is None
    assert not found.trained
    assert found.note.startswith("UNTRAINED NETWORK: ")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("net_s.pt", "Put the file into .*weights, or set allow_download = true to fetch it, or allow_untrained = true"),
        ("nets.pt", 'Did you mean "net_s.pt"'),
        ("", "the option weights is empty"),
        ("weights", "is a folder"),
        ("/nowhere/net_s.pt", "there is no file /nowhere/net_s.pt"),
    ],
)
def test_no_weights_is_one_clear_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "weights").mkdir()

    with pytest.raises(WeightsError, match=sentence):
        resolved(name, tmp_path)


def test_a_path_that_is_not_there_is_never_replaced_by_an_untrained_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no file"):
        resolved("weights/net_s.pt", tmp_path, allow_download=True, allow_untrained=True)


@pytest.mark.models
@pytest.mark.slow
def test_a_checkpoint_is_read_without_running_what_it_holds(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "good.pt")
    torch.save({"model": Boom(tmp_path / "boom")}, tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:300])
    (tmp_path / "text.pt").write_text("no weights at all")
    (tmp_path / "torn.pt").write_bytes(b"torn")
    (tmp_path / "empty.pt").touch()

    assert open_checked(tmp_path / "good.pt")["model"]["a"].tolist() == [1, 1]
    assert open_checked(tmp_path / "old.pt")["a"].tolist() == [1, 1]
    for name in ("evil", "list", "cut", "text", "torn", "empty", "missing"):
        with pytest.raises(WeightsError, match=f"{name}.pt"):
            open_checked(tmp_path / f"{name}.pt")
    assert not (tmp_path / "boom").exists()


class Boom:
    """Makes a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))
