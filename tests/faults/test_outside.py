"""Programs outside Warden take the device, and nothing is granted twice: whole supervisors, real programs, killed at any moment."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import httpx
import msgspec
import pytest

from supervisor.control import Client, Refused, endpoint_of
from supervisor.shapes import DeviceView, HolderView, LockView
from tests.support.live import FAKE, WARDEN, WITHIN_S, Live, MakeLive, alive

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(180)]

SAM: Final = f"""
[gpu]
backend = "host"
[workers.sam]
{FAKE}
serves = ["demo.count"]
gpu = "14GiB"
"""
HOLDS: Final = "import os, sys; print(os.environ['WARDEN_DEVICE'], os.getpid(), flush=True); sys.stdin.read()"
"""Says which device it got and who it is, and ends when its input does."""


class Program:
    """`warden gpu run` with a program that holds the device until it is let go."""

    def __init__(self, warden: Live, *options: str, code: str = HOLDS) -> None:
        self.process = subprocess.Popen(
            [WARDEN, "gpu", "run", *options, "--", sys.executable, "-c", code],
            cwd=warden.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def begun(self) -> int:
        """Return the pid of the program, once it runs."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=WITHIN_S)[1]
        device, pid = line.split()
        assert device == "host"
        return int(pid)

    def let_go(self) -> tuple[int, str]:
        """End its input, and return how it ended and what it said."""
        _, said = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, said


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    """What runs programs under a lease; each is gone at the end."""
    made: list[Program] = []

    def make(warden: Live, *options: str, **more: Any) -> Program:
        made.append(Program(warden, *options, **more))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.communicate(timeout=WITHIN_S)


def device(warden: Live) -> DeviceView:
    return warden.status().devices[0]


def holder(warden: Live) -> HolderView | None:
    holders = device(warden).holders
    assert len(holders) <= 1, holders
    return holders[0] if holders else None


def sam_is_ready(warden: Live, *, after: int = 0) -> None:
    warden.wait_for_event("worker_ready", worker="sam-0", after=after)


def waits(warden: Live, count: int) -> None:
    """Return once so many programs wait."""
    assert warden.holds(lambda: len([one for one in device(warden).waiters if one.kind == "outside"]) == count), device(warden).waiters


def test_sam_leaves_for_a_program_and_comes_back_after_it(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM)
    sam_is_ready(warden)
    mark = warden.mark()

    program = run(warden, "--need", "8GiB")
    pid = program.begun()
    held = holder(warden)
    screen, gpu = warden.cli("status").stdout, warden.cli("gpu", "status").stdout
    waiter = warden.submit(steps=1)
    assert warden.holds(lambda: warden.job(waiter).reason == "waiting_for_gpu")
    why = warden.cli("jobs", "why", waiter).stdout
    ended = program.let_go()
    sam_is_ready(warden, after=mark)

    assert held is not None
    assert (held.kind, held.pid, held.need_bytes, held.state, held.fence) == ("outside", pid, 8 * 2**30, "held", 2)
    assert f"pid {pid}, not Warden's" in screen
    assert f"pid {pid}, not Warden's" in gpu
    assert f"(pid {pid}) holds" in why
    assert ended == (0, "")
    story = [(one["event"], str(one.get("owner"))[:6]) for one in warden.events[mark:] if one["event"] in {"lease_granted", "lease_released"}]
    assert [name for name, _ in story] == ["lease_released", "lease_granted", "lease_released", "lease_granted"], story
    assert [owner == "sam-0" for _, owner in story] == [True, False, False, True]
    warden.wait_for_job(waiter, "completed")


def test_the_lease_is_gone_with_the_program_and_with_the_command(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM)
    sam_is_ready(warden)
    for victim in ("program", "command"):
        mark = warden.mark()
        program = run(warden, "--need", "8GiB")
        pid = program.begun()

        os.kill(pid if victim == "program" else program.process.pid, signal.SIGKILL)
        code = program.process.wait(WITHIN_S)
        released = warden.wait_for_event("lease_released", after=mark, reason="its process is gone")
        sam_is_ready(warden, after=mark)

        assert f"pid {pid}" in str(released["owner"])
        assert code == (128 + 9 if victim == "program" else -9)
        assert warden.holds(lambda pid=pid: not alive(pid)), "the program outlived its command"  # type: ignore[misc]


def test_the_program_gets_the_signals_and_gives_its_own_code(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM)
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(5)); print('host', 1, flush=True); signal.pause()"

    program = run(warden, code=code)
    program.begun()
    program.process.send_signal(signal.SIGTERM)
    ended = program.let_go()
    failing = warden.cli("gpu", "run", "--", sys.executable, "-c", "raise SystemExit(3)")
    piped = warden.cli("gpu", "run", "--", sys.executable, "-c", "import signal; print(int(signal.getsignal(signal.SIGPIPE) or 0))")
    missing = warden.cli("gpu", "run", "--", "no-such-program-at-all")

    assert ended[0] == 5
    assert failing.returncode == 3
    assert (missing.returncode, missing.stderr) == (127, "no-such-program-at-all: there is no such program\n")
    assert piped.returncode == 0


def test_whoever_waits_in_vain_hears_who_is_in_the_way(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM)
    first = run(warden)
    pid = first.begun()

    second = warden.cli("gpu", "run", "--timeout", "1500ms", "--", "true")
    lock = warden.cli("gpu", "lock", "--timeout", "100ms", "--json")
    view = msgspec.json.decode(lock.stdout, type=LockView)

    assert (second.returncode, lock.returncode) == (75, 75)
    assert second.stderr.splitlines()[0].startswith("waiting: python")
    assert f"the device was not free within 1.5 s: {os.path.basename(sys.executable)} (pid {pid}) holds host" in second.stderr  # noqa: PTH119  # as Warden does
    assert (view.granted, view.reason, view.holders[0].pid, view.ticket[:2]) == (False, "lock_timeout", pid, "t-")
    assert first.let_go()[0] == 0


def test_what_would_wait_on_itself_is_refused_at_once(live: MakeLive) -> None:
    warden = live(SAM)
    sam_is_ready(warden)

    nested = warden.cli("gpu", "run", "--", str(WARDEN), "gpu", "run", "--", "true")
    too_large = warden.cli("gpu", "run", "--need", "64GiB", "--", "true")

    assert nested.returncode == 1
    assert "it would wait on itself" in nested.stderr
    assert too_large.returncode == 2
    assert "64GiB and 256MiB of margin can never be granted: host has 16GiB" in too_large.stderr


def test_the_more_urgent_program_comes_first(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM.replace('backend = "host"', 'backend = "host"\nage_step = "1h"'))
    first = run(warden)
    first.begun()
    calm = run(warden, "--priority", "20")
    waits(warden, 1)
    urgent = run(warden, "--priority", "0")
    waits(warden, 2)
    order = [(one.priority, one.waits_for.split(" (")[0]) for one in device(warden).waiters]

    first.let_go()
    pid = urgent.begun()
    held = holder(warden)
    urgent.let_go()
    calm.begun()

    assert [priority for priority, _ in order] == [0, 20]
    assert held is not None
    assert held.pid == pid
    assert calm.let_go()[0] == 0


def test_a_killed_supervisor_changes_nothing_for_the_program(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM)
    sam_is_ready(warden)
    program = run(warden, "--need", "8GiB")
    pid = program.begun()
    before = holder(warden)

    warden.kill()
    mark = warden.mark()
    warden.start()
    after = holder(warden)
    waiter = run(warden)
    waits(warden, 1)
    warden.kill()
    warden.start()
    waits(warden, 1)  # it asked again by itself
    warden.kill()
    os.kill(pid, signal.SIGKILL)
    program.process.wait(WITHIN_S)
    warden.start()
    waiter.begun()
    last = holder(warden)

    assert before is not None
    assert after is not None
    assert last is not None
    assert (after.pid, after.lease, after.fence, after.state) == (pid, before.lease, before.fence, "held")
    assert warden.seen("lease_adopted", after=mark)
    assert last.fence > before.fence
    assert waiter.let_go()[0] == 0


def ask(warden: Live, op: str, **args: Any) -> Any:
    """Ask by hand, and wait for a device as long as it takes."""
    with Client(lambda: endpoint_of(warden.state_dir)) as client:
        return client.ask(op, args, timeout_s=WITHIN_S)


def test_one_without_a_process_keeps_the_device_as_long_as_it_renews(live: MakeLive) -> None:
    warden = live(SAM)
    sam_is_ready(warden)
    mark = warden.mark()
    lease = msgspec.convert(ask(warden, "gpu.lock", owner="far", need="1GiB", ttl_s=60.0), LockView)

    renewed = msgspec.convert(ask(warden, "gpu.renew", lease=lease.lease, fence=lease.fence, ttl_s=0.5), LockView)
    stale = warden.wait_for_event("lease_stale", after=mark)
    sam_is_ready(warden, after=mark)
    with pytest.raises(Refused, match="is over") as late:
        ask(warden, "gpu.renew", lease=lease.lease, fence=lease.fence)

    assert renewed.expires_in_s is not None
    assert "far has not renewed its lease for 0.5 s, and nothing else shows that it lives" in stale["reason"]
    assert warden.seen("lease_released", after=mark, owner="far")[0]["reason"] == "not renewed for 0.5 s"
    assert late.value.code == "conflict"


def test_one_that_lives_and_does_not_renew_is_named_and_not_robbed(live: MakeLive) -> None:
    warden = live(SAM)
    sam_is_ready(warden)
    mark = warden.mark()

    taken = warden.cli("gpu", "lock", "--ttl", "300ms", "--pid", str(os.getpid()), "--owner", "tests")
    lease, fence, _device = taken.stdout.split()
    warden.wait_for_event("lease_stale", after=mark)
    stale = holder(warden)
    refused = warden.cli("gpu", "lock", "--timeout", "0s", "--pid", "0", "--owner", "other")
    renewed = warden.cli("gpu", "renew", lease, fence, "--ttl", "1h")
    again = holder(warden)
    old = warden.cli("gpu", "unlock", lease, str(int(fence) - 1))
    given = warden.cli("gpu", "unlock", lease, fence)
    sam_is_ready(warden, after=mark)

    assert stale is not None
    assert again is not None
    assert (stale.state, stale.pid, again.state) == ("stale", os.getpid(), "held")
    assert refused.returncode == 75
    assert f"tests (pid {os.getpid()}) holds host, and does not renew its lease" in refused.stderr
    assert (renewed.returncode, old.returncode, given.returncode) == (0, 1, 0)


def test_over_http_a_connection_that_closes_waits_no_longer_and_a_device_is_taken_and_given_back(live: MakeLive, run: Callable[..., Program]) -> None:
    warden = live(SAM, api="127.0.0.1:0")
    sam_is_ready(warden)
    warden.wait_for_event("worker_ready", worker="api-0")
    url = warden.status().supervisor.api
    program = run(warden)
    pid = program.begun()
    with httpx.Client(base_url=url, timeout=WITHIN_S) as http, ThreadPoolExecutor(1) as pool:
        refused = http.post("/v1/gpu/lock", json={"owner": "far", "timeout_s": 0.2})
        gone = httpx.Client(base_url=url, timeout=httpx.Timeout(WITHIN_S, read=1.0))
        with gone, suppress(httpx.ReadTimeout):
            gone.post("/v1/gpu/lock", json={"owner": "goes away", "timeout_s": 600})
        waits(warden, 0)
        waiting = pool.submit(lambda: http.post("/v1/gpu/lock", json={"owner": "far", "timeout_s": 60, "ticket": refused.json()["ticket"]}))
        waits(warden, 1)
        aged = device(warden).waiters[0]
        program.let_go()
        granted = waiting.result(WITHIN_S)
        body = {name: granted.json()[name] for name in ("lease", "fence")}
        statuses = [http.post(f"/v1/gpu/{what}", json=body).status_code for what in ("renew", "unlock", "renew")]

    assert refused.status_code == 503
    assert refused.json()["holders"][0]["pid"] == pid
    assert aged.ticket == refused.json()["ticket"]
    assert granted.status_code == 200, granted.text
    assert statuses == [200, 200, 409]


def test_forty_ask_at_once_and_no_two_have_it_together(live: MakeLive) -> None:
    warden = live(SAM.replace('gpu = "14GiB"', 'gpu = "0"'))
    having, most, lock = [0], [0], threading.Lock()

    def turn(number: int) -> int:
        view = msgspec.convert(ask(warden, "gpu.lock", owner=f"p{number}", ttl_s=60.0, timeout_s=40.0), LockView)
        assert view.granted, view.message
        with lock:
            having[0] += 1
            most[0] = max(most[0], having[0])
        with lock:
            having[0] -= 1
        ask(warden, "gpu.unlock", lease=view.lease, fence=view.fence)
        return view.fence or 0

    with ThreadPoolExecutor(20) as pool:
        fences = list(pool.map(turn, range(40)))

    assert most == [1]
    assert len(set(fences)) == 40
