"""What it takes to start a worker: its command with the placeholders filled in, its environment, where it runs and writes."""

import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from supervisor.core.limits import WorkerSpec
from supervisor.core.model import Device, Worker
from supervisor.runtime.api_child import API
from supervisor.runtime.process_ports import FIRST_DESCRIPTOR, Launch

_NOT_HANDED_ON: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""Of the supervisor's environment: what its own service manager meant for it alone."""


_OF_ITS_OWN_USER: Final = ("HOME", "USER", "LOGNAME")
"""Of the supervisor's environment: what a program that runs as somebody else gets anew."""


class Launcher(Struct, frozen=True, kw_only=True):
    """Makes launches. fill replaces {python}, {config_dir}, {state_dir} and {name} in a text."""

    fill: Callable[[str, str], str]
    endpoint: str
    state_dir: Path
    config_dir: Path
    log_dir: Path
    environ: Mapping[str, str]
    listening: tuple[int, ...] = ()  # the sockets that HTTP is served on

    def launch(self, worker: Worker, generation: int, spec: WorkerSpec, device: Device | None, *, budget_bytes: int = 0) -> Launch:
        """Return the launch of one generation, with a token and a tag that no other has. budget_bytes: its share of a device that others use too; 0: all."""
        token, tag = secrets.token_hex(16), secrets.token_hex(8)
        withheld = (*_NOT_HANDED_ON, *(_OF_ITS_OWN_USER if spec.user else ()))
        inherited = {name: value for name, value in self.environ.items() if name not in withheld}
        descriptors = self.listening if worker.model == API else ()
        own = {name: self.fill(value, worker.name) for name, value in spec.env.items()}
        given = {
            "WARDEN_ENDPOINT": self.endpoint,
            "WARDEN_WORKER": worker.name,
            "WARDEN_GENERATION": str(generation),
            "WARDEN_TOKEN": token,
            "WARDEN_TAG": tag,
            "WARDEN_STATE_DIR": str(self.state_dir),
            "WARDEN_CONFIG_DIR": str(self.config_dir),
            "WARDEN_CONCURRENCY": str(spec.concurrency),
            "WARDEN_OPTIONS": json.dumps(spec.options),
            **(shown(device) if device else {}),
            **(_share(device, budget_bytes) if device and budget_bytes else {}),
            **({"WARDEN_LISTEN": ",".join(str(FIRST_DESCRIPTOR + place) for place in range(len(descriptors)))} if descriptors else {}),
        }
        return Launch(
            worker=worker.name,
            generation=generation,
            token=token,
            tag=tag,
            argv=tuple(self.fill(word, worker.name) for word in spec.command),
            env={"PYTHONUNBUFFERED": "1", **inherited, **own, **given},
            cwd=Path(self.fill(spec.cwd, worker.name)),
            log=self.log_dir / "workers" / f"{worker.name}.log",
            umask=spec.umask,
            oom_score_adj=spec.oom_score_adj,
            user=spec.user,
            descriptors=descriptors,
        )


def _share(device: Device, budget_bytes: int) -> dict[str, str]:
    return {"WARDEN_DEVICE_BUDGET": str(budget_bytes), "WARDEN_DEVICE_TOTAL": str(device.total_bytes)}


def shown(device: Device) -> dict[str, str]:
    """Return what makes a program see this device alone. A card by its UUID: its number depends on who counts, and may change with the next boot."""
    own: dict[str, str] = {"WARDEN_DEVICE": device.id}
    return {**own, "CUDA_VISIBLE_DEVICES": device.id, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if device.backend == "nvml" else own
