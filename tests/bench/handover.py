"""Measures a hand-over: from the order to leave until the newcomer's process is spawned, against the holder's own exit without Warden.

Aim: no more than 0.3 s beyond the holder's own exit. The bare exit is measured by a tiny program that plays the supervisor to the same worker class: it spawns
it, welcomes it, says `drain`, and takes the time until its pidfd says that it is gone. First the fake worker, in interleaved pairs; then the real SAM worker.
"""

import json
import os
import secrets
import select
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import zmq

from supervisor import wire
from supervisor.shapes import HandoverView
from tests.bench._warden import ROOT, Warden, environment, quick, scratch, supervised
from tests.support.measure import machine, print_table

AIM_S: Final = 0.3
SAM_OPTIONS: Final = {"allow_untrained": True, "image_size": 128, "device": "cpu", "weights": "sam2.1_t.pt"}
FAKE_OPTIONS: Final[dict[str, Any]] = {"load_mb": 200}
STEPS: Final = ("exit_s", "gone_s", "back_s", "proof_s", "spawned_s")


def toml_of(module: str, options: dict[str, Any], kind: str) -> str:
    """Return a configuration in which YOLO (a fake) needs the device that SAM (module) holds."""
    given = ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    return f"""
[workers.sam]
command = ["{{python}}", "-P", "-m", "{module}"]
serves = ["{kind}"]
gpu = "14GiB"
options = {{ {given} }}
[workers.yolo]
command = ["{{python}}", "-P", "-m", "workers.fake"]
serves = ["demo.train"]
gpu = "8GiB"
priority = 15
resident = false
"""


def bare_exit_s(folder: Path, module: str, options: dict[str, Any]) -> float:
    """Return the seconds from `drain` to the end of a worker that is ready, and that nobody supervises."""
    endpoint, token = f"ipc://{folder}/bare-{secrets.token_hex(4)}.sock", secrets.token_hex(16)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint)
    given = {
        "WARDEN_ENDPOINT": endpoint,
        "WARDEN_WORKER": "sam-0",
        "WARDEN_GENERATION": "1",
        "WARDEN_TOKEN": token,
        "WARDEN_STATE_DIR": str(folder),
        "WARDEN_OPTIONS": json.dumps(options),
    }
    with (folder / "bare.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module], cwd=ROOT, env={**environment(), **given}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    sender = b""
    message: wire.AnyFromWorker | None = None
    while not isinstance(message, wire.Ready):
        if not router.poll(60_000):
            raise RuntimeError(f"the bare worker did not get ready; it said:\n{(folder / 'bare.log').read_text()[-2000:]}")
        sender, data = router.recv_multipart()
        message = wire.decode_from_worker(data)
        if isinstance(message, wire.Hello):
            router.send_multipart([sender, wire.encode(wire.Welcome(limits={"orphan_after_s": 60.0}))])
    pidfd = os.pidfd_open(process.pid)
    began_s = time.perf_counter()
    router.send_multipart([sender, wire.encode(wire.Drain())])
    select.select([pidfd], [], [])
    took_s = time.perf_counter() - began_s
    process.wait()
    os.close(pidfd)
    router.close(0)
    context.term()
    return took_s


def handed_over(warden: Warden) -> HandoverView:
    """Return how SAM's device went to YOLO, and wait until SAM is back on it."""
    warden.finished(warden.submit("demo.train", {"steps": 1, "step_s": 0.01}))
    seen = warden.status().devices[0].last_handover
    if seen is None or seen.leaving != ["sam-0"] or seen.spawned_s is None:
        raise RuntimeError(f"a hand-over from sam-0 to yolo-0 was expected, found {seen}")
    warden.wait_ready("sam-0")
    return seen


def rows_for(name: str, module: str, options: dict[str, Any], kind: str, runs: int) -> list[tuple[str, ...]]:
    """Return the rows of one worker class: bare exit, each step of the hand-over, and what is beyond the exit."""
    bare: list[float] = []
    seen: list[HandoverView] = []
    with supervised(toml_of(module, options, kind)) as warden, scratch() as folder:
        warden.wait_ready("sam-0")
        for _ in range(runs):
            seen.append(handed_over(warden))
            bare.append(bare_exit_s(folder, module, options))
    steps = {step: [getattr(view, step) for view in seen] for step in STEPS}
    beyond = [spawned - own for spawned, own in zip(steps["spawned_s"], bare, strict=True)]
    inside = [spawned - exited for spawned, exited in zip(steps["spawned_s"], steps["exit_s"], strict=True)]
    told = {
        "bare: drain -> exit": bare,
        "order -> SAM's exit reaped": steps["exit_s"],
        "order -> its tree proved gone": steps["gone_s"],
        "order -> memory seen to be back": steps["back_s"],
        "order -> seen twice, granted": steps["proof_s"],
        "order -> YOLO's process spawned": steps["spawned_s"],
        "spawned, less the exit in the same run": inside,
        "spawned, less the bare exit": beyond,
    }
    verdict = "ok" if statistics.median(beyond) <= AIM_S else "MISSED"
    return [
        (name, what, f"{statistics.median(took):.3f}", f"{min(took):.3f}", f"{max(took):.3f}", verdict if took is beyond else "") for what, took in told.items()
    ]


def main() -> int:
    """Print the table."""
    runs, real_runs = (1, 1) if quick() else (15, 3)
    rows = rows_for("fake, 200 MB", "workers.fake", FAKE_OPTIONS, "demo.count", runs)
    if find_spec("ultralytics") is None:
        print("the real SAM worker is left out: it needs the extra models (pip install gpu-warden[models])")
    else:
        rows += rows_for("SAM", "workers.sam", SAM_OPTIONS, "sam.segment", real_runs)
    print_table(
        f"hand-over, s ({runs} of the fake, {real_runs} of SAM; aim: at most {AIM_S:g} s beyond the bare exit; {machine()})",
        ("holder", "what", "median", "min", "max", "aim"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
