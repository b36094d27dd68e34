"""The ledger of a fake card: it is the witness of what was held at once, so it must see what nobody refuses."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.fake_card import GIB, T4, FakeCards
from workers.fake_card import FOR_EVER, claim


@pytest.fixture
def card(tmp_path: Path) -> FakeCards:
    """A card without a driver: nothing here asks one."""
    made = FakeCards(tmp_path / "cards", None)
    made.add()
    return made


def held_by_another(card: FakeCards, size_mb: int, *, owner: Mapping[str, str], release_s: float = 0.0) -> "subprocess.Popen[str]":
    """Start a process that holds so much, and return once it does."""
    uuid = (card.folder / "0" / "uuid").read_text()
    code = f"from workers.fake_card import claim; claim({size_mb}, release_s={release_s}); print('held', flush=True); input()"
    env = {**os.environ, **card.env, **owner, "CUDA_VISIBLE_DEVICES": uuid}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_more_than_the_card_has_is_given_and_written_down(card: FakeCards) -> None:
    with held_by_another(card, 14 * 1024, owner={"WARDEN_WORKER": "sam-0", "WARDEN_GENERATION": "1"}):
        before = card.was_over()
        with held_by_another(card, 8 * 1024, owner={"WARDEN_LEASE": "l-2"}):
            pass

    assert not before
    assert card.was_over()
    assert card.most_bytes() == 22 * GIB > T4
    assert card.were_together() == {("sam-0#1", "l-2")}


@pytest.mark.parametrize(("release_s", "together"), [(0.0, set()), (3600.0, {("l-1", "l-2")}), (FOR_EVER, {("l-1", "l-2")})])
def test_what_a_dead_process_had_counts_for_as_long_as_the_card_keeps_it(card: FakeCards, release_s: float, together: set[tuple[str, str]]) -> None:
    with held_by_another(card, 1024, owner={"WARDEN_LEASE": "l-1"}, release_s=release_s):
        pass
    with held_by_another(card, 2048, owner={"WARDEN_LEASE": "l-2"}):
        pass

    assert card.were_together() == together
    assert card.most_bytes() == (3 if together else 2) * GIB


def test_a_zombie_holds_nothing_and_one_owner_is_not_together_with_itself(card: FakeCards) -> None:
    first = held_by_another(card, 1024, owner={"WARDEN_LEASE": "l-1"})
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    with held_by_another(card, 1024, owner={"WARDEN_LEASE": "l-2"}), held_by_another(card, 1024, owner={"WARDEN_LEASE": "l-2"}):
        pass
    with first:
        pass

    assert card.were_together() == set()
    assert card.most_bytes() == 2 * GIB


def test_who_gives_it_back_is_written_down_too(card: FakeCards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NVML", str(card.folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", (card.folder / "0" / "uuid").read_text())

    claim(1024)
    claim(0)

    assert [entry.bytes for entry in card.ledger()] == [GIB, 0]
    assert [entry.pid for entry in card.ledger()] == [os.getpid()] * 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none")
    with pytest.raises(RuntimeError, match="names no card"):
        claim(1024)
