"""The share of a device that torch is held to: set once torch and a CUDA device are there, and never by importing torch. Torch itself is a stand-in here."""

import sys
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from workers.budget import keep_budget

SHARE: Mapping[str, str] = {"WARDEN_DEVICE_BUDGET": str(6 * 2**30), "WARDEN_DEVICE_TOTAL": str(15 * 2**30)}


class FakeCuda:
    """What the SDK touches of torch.cuda."""

    def __init__(self, *, initialized: bool) -> None:
        self.initialized = initialized
        self.held: list[tuple[float, str | None]] = []

    def is_initialized(self) -> bool:
        return self.initialized

    def set_per_process_memory_fraction(self, fraction: float, device: str | None = None) -> None:
        self.held.append((fraction, device))


def fake_torch(monkeypatch: pytest.MonkeyPatch, *, initialized: bool = False) -> FakeCuda:
    """Put a stand-in where torch would be once it is imported."""
    cuda = FakeCuda(initialized=initialized)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


@pytest.mark.parametrize("device", ["cuda:0", "cuda"])
def test_torch_is_held_to_the_share_of_the_device_before_anything_is_loaded_there(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    cuda = fake_torch(monkeypatch)

    assert keep_budget(device, environ=SHARE) == pytest.approx(0.4)
    assert cuda.held == [(0.4, device)]


def test_after_the_load_whoever_has_a_context_is_held_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = fake_torch(monkeypatch, initialized=True)

    keep_budget(environ=SHARE)

    assert cuda.held == [(0.4, None)]


@pytest.mark.parametrize(
    ("device", "environ", "initialized"),
    [
        ("cpu", SHARE, False),
        ("cpu", SHARE, True),
        ("", SHARE, False),
        ("cuda:0", {}, True),
        ("cuda:0", {"WARDEN_DEVICE_BUDGET": "0", "WARDEN_DEVICE_TOTAL": "0"}, True),
        ("cuda:0", {"WARDEN_DEVICE_BUDGET": "5"}, True),
    ],
)
def test_nobody_is_held_to_a_share_who_has_none_or_uses_no_card(
    monkeypatch: pytest.MonkeyPatch, device: str, environ: Mapping[str, str], initialized: bool
) -> None:
    cuda = fake_torch(monkeypatch, initialized=initialized)

    assert keep_budget(device, environ=environ) is None
    assert cuda.held == []


def test_a_share_over_all_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = fake_torch(monkeypatch)

    keep_budget("cuda:0", environ={"WARDEN_DEVICE_BUDGET": "16", "WARDEN_DEVICE_TOTAL": "15"})

    assert cuda.held == [(1.0, "cuda:0")]


def test_a_worker_without_torch_is_not_made_to_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    assert keep_budget("cuda:0", environ=SHARE) is None
    assert "torch" not in sys.modules
