"""Keeps a process within its share of a device that others use too, so that its excess is its own failure, and not its neighbour's."""

import os
import sys
from collections.abc import Mapping


def keep_budget(device: str = "", *, environ: Mapping[str, str] = os.environ) -> float | None:
    """Let torch hand out no more of its device than the supervisor booked for this process. Returns that share, from 0 to 1; None where nothing is held to any.

    device: what the model goes to ("cuda:0"); call it before anything is loaded there. Without one it holds what has a CUDA context already: the SDK does that
    after `load`, for workers that do not. The CUDA context itself (300 to 600 MB) is not torch's to hand out, and comes on top. Never run on a card.
    """
    budget_bytes, total_bytes = (int(environ.get(name) or 0) for name in ("WARDEN_DEVICE_BUDGET", "WARDEN_DEVICE_TOTAL"))
    torch = sys.modules.get("torch")  # whoever does not use it is not made to import it
    if not budget_bytes or not total_bytes or torch is None or not (device.startswith("cuda") or (not device and torch.cuda.is_initialized())):
        return None
    share = min(1.0, budget_bytes / total_bytes)
    torch.cuda.set_per_process_memory_fraction(share, device or None)
    print(f"torch is held to {share:.3f} of the device's memory, {budget_bytes / 2**30:.2f} GiB", flush=True)
    return share
