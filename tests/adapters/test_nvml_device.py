"""Cards as devices: read with a deadline by probes that may hang, and whose the processes on them are."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor.adapters import proc
from supervisor.adapters.nvml_device import NO_CARD, NvmlDevice
from supervisor.adapters.probe_client import Patience, ProbeClient
from supervisor.adapters.tree_members import Members, Owner
from supervisor.adapters.trees import Record
from supervisor.core.events import DeviceFaulted, DevicesFound
from supervisor.core.model import DeviceId, DeviceSample, DeviceState, Holding, WorkerName
from supervisor.probing import MODULE
from supervisor.runtime.ports import DeviceError
from tests.support.fake_card import GIB, NEVER, T4, FakeCards
from tests.support.kept import NAME, Kept
from tests.support.live import WITHIN_S, processes_with

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

PATIENT = Patience(hello_s=WITHIN_S, first_s=WITHIN_S, answer_s=WITHIN_S, pause_s=0.0)
SHORT = Patience(hello_s=WITHIN_S, first_s=0.3, answer_s=0.3, pause_s=0.0, start_s=0.2, tries=2)
"""For drivers that hang: their first answer is not waited for either."""


async def nobody(pids: Collection[int]) -> Mapping[int, Owner]:
    """Own no process."""
    return {pid: Owner(None, "somebody") for pid in pids}


@asynccontextmanager
async def reading(
    cards: FakeCards,
    *,
    owners: Callable[[Collection[int]], object] = nobody,
    patience: Patience = PATIENT,
    found: list[DevicesFound] | None = None,
    own_pids: bool = True,
    lists: bool = True,
    faults: list[DeviceFaulted] | None = None,
) -> AsyncIterator[NvmlDevice]:
    """Return what reads these cards, and end its probes."""
    environ = {**os.environ, **cards.env}

    def post(event: DevicesFound | DeviceFaulted) -> None:
        if isinstance(event, DeviceFaulted):
            (faults if faults is not None else []).append(event)
        else:
            (found if found is not None else []).append(event)

    nodes = str(cards.folder / "nvidia")
    device = NvmlDevice(environ, owners=owners, post=post, patience=patience, own_pids=own_pids, lists=lists, nodes=nodes)  # type: ignore[arg-type]
    try:
        yield device
    finally:
        await device.close()


@asynccontextmanager
async def opening(node: Path) -> AsyncIterator[int]:
    """Return the pid of a program that has this file open."""
    with node.open() as file:
        program = await asyncio.create_subprocess_exec("sleep", "3600", stdin=file)
    try:
        yield program.pid
    finally:
        program.kill()
        await program.wait()


async def failing(device: NvmlDevice, card: str) -> DeviceError:
    """Return why the card cannot be read."""
    with pytest.raises(DeviceError) as caught:
        await device.measure(DeviceId(card))
    return caught.value


async def until_read(device: NvmlDevice, card: str) -> DeviceSample:
    """Return the first good reading."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return await device.measure(DeviceId(card))
            except DeviceError:
                await asyncio.to_thread(os.sched_yield)


async def test_the_cards_are_the_devices_and_a_reading_says_what_is_free(cards: FakeCards) -> None:
    uuid, other = cards.add(), cards.add("Fake A4000", total_bytes=16 * GIB)
    cards.claim(4242, 3 * GIB, release_s=NEVER)
    async with reading(cards) as device:
        found = await device.devices()
        first, second = await device.measure(DeviceId(uuid)), await device.measure(DeviceId(other))

    assert [(one.id, one.name, one.backend, one.total_bytes, one.state) for one in found] == [
        (uuid, "Fake T4", "nvml", T4, DeviceState.OK),
        (other, "Fake A4000", "nvml", 16 * GIB, DeviceState.OK),
    ]
    assert (first.used_bytes, first.free_bytes, first.total_bytes) == (3 * GIB, 12 * GIB, T4)
    assert first.holdings == (Holding(None, 4242, 3 * GIB, "somebody"),)
    assert (second.used_bytes, second.free_bytes) == (0, 16 * GIB)
    assert "by pid" in first.proof


async def test_a_pid_is_its_workers_also_when_it_is_gone_and_still_listed(cards: FakeCards, kept: Kept) -> None:
    card = cards.add()
    leader = await kept.spawn("sh", "-c", "sleep 3600 & echo $!; wait")
    await kept.until(lambda: (kept.folder / "tool.log").read_text().strip().isdigit())
    child = int((kept.folder / "tool.log").read_text())
    me = proc.look(os.getpid())
    assert me is not None
    cards.claim(leader, GIB, release_s=NEVER)
    cards.claim(child, 4 * GIB, release_s=NEVER)
    cards.claim(me.pid, 2 * GIB)
    async with reading(cards, owners=kept.processes.owners) as device:
        while_it_lives = await device.measure(DeviceId(card))
        await kept.processes.kill(NAME, 1)
        await kept.exit()
        await kept.processes.prove_gone(NAME, 1, WITHIN_S)
        after = await device.measure(DeviceId(card))

    stranger = next(one for one in while_it_lives.holdings if one.worker is None)
    assert set(while_it_lives.holdings) == {Holding(NAME, child, 5 * GIB), Holding(None, me.pid, 2 * GIB, me.name, stranger.above)}
    assert stranger.above[0] == os.getppid()
    assert set(after.holdings) == set(while_it_lives.holdings)


async def test_a_leader_that_was_never_seen_on_the_card_alive_is_known_by_its_birth(cards: FakeCards, kept: Kept) -> None:
    card = cards.add()
    leader = await kept.spawn("true")
    await kept.exit()
    await kept.processes.prove_gone(NAME, 1, WITHIN_S)
    cards.claim(leader, GIB, release_s=NEVER)
    async with reading(cards, owners=kept.processes.owners) as device:
        found = await device.measure(DeviceId(card))

    assert found.holdings == (Holding(NAME, leader, GIB),)


async def test_a_pid_that_was_given_out_anew_is_not_the_workers() -> None:
    members = Members()
    members.born(Record(worker=NAME, generation=1, token="", tag="", log="", boot_id="", pid=os.getpid(), start_ticks=1))

    owners = members.owners((), (os.getpid(),))

    assert owners[os.getpid()].worker is None


async def test_the_dead_of_one_card_are_remembered_while_another_is_read(cards: FakeCards, kept: Kept) -> None:
    one, other = cards.add(), cards.add()
    leader = await kept.spawn("sleep", "3600")
    cards.claim(leader, GIB, release_s=NEVER)
    cards.claim(os.getpid(), GIB, card=1)
    await kept.processes.kill(NAME, 1)
    await kept.exit()
    await kept.processes.prove_gone(NAME, 1, WITHIN_S)
    async with reading(cards, owners=kept.processes.owners) as device:
        before = await device.measure(DeviceId(one))
        await device.measure(DeviceId(other))
        after = await device.measure(DeviceId(one))

    assert before.holdings == after.holdings == (Holding(NAME, leader, GIB),)


async def test_without_sizes_presence_counts(cards: FakeCards) -> None:
    card = cards.add()
    cards.claim(os.getpid(), 3 * GIB, shown=False)
    cards.claim(4242, GIB, release_s=NEVER)

    async def ours(pids: Collection[int]) -> Mapping[int, Owner]:
        return dict.fromkeys(pids, Owner(NAME, ""))

    async with reading(cards, owners=ours) as device:
        found = await device.measure(DeviceId(card))

    assert [(one.worker, one.used_bytes) for one in found.holdings] == [(NAME, None)]
    assert found.used_bytes == 4 * GIB
    assert "without sizes" in found.proof


async def test_in_another_namespace_only_totals_are_proved_until_one_of_ours_is_listed(cards: FakeCards) -> None:
    card = cards.add()
    ours: set[int] = set()

    async def owners(pids: Collection[int]) -> Mapping[int, Owner]:
        return {pid: Owner(NAME if pid in ours else None, "") for pid in pids}

    async with reading(cards, owners=owners, own_pids=False) as device:
        cards.claim(4242, GIB, release_s=NEVER)
        before = await device.measure(DeviceId(card))
        ours.add(4242)
        after = await device.measure(DeviceId(card))

    assert (before.by_pid, "totals only" in before.proof) == (False, True)
    assert (after.by_pid, "by pid" in after.proof) == (True, True)


async def test_a_driver_that_lists_nobody_proves_totals_only(cards: FakeCards) -> None:
    card = cards.add()
    for version in ("_v2", "_v3"):
        cards.put(f"0/error-nvmlDeviceGetComputeRunningProcesses{version}", 3)
    async with reading(cards) as device:
        found = await device.measure(DeviceId(card))

    assert (found.holdings, found.by_pid, "totals only: the driver lists no processes" in found.proof) == ((), False, True)


async def test_where_no_driver_lists_processes_totals_only_are_proved_and_it_is_said_at_the_start(cards: FakeCards) -> None:
    card = cards.add()
    cards.claim(4242, 2 * GIB, release_s=NEVER)
    async with reading(cards, lists=False) as device:
        (first,) = await device.devices()
        found = await device.measure(DeviceId(card))
        used = await device.used_by(NAME, DeviceId(card))

    assert "totals only" in first.proof
    assert (found.holdings, found.by_pid, used) == ((), False, 2 * GIB)


@pytest.mark.parametrize(("key", "words"), [("mig", "MIG mode is on"), ("coherent", "NUMA node")])
async def test_a_card_that_proves_nothing_is_unverifiable_from_the_start(cards: FakeCards, key: str, words: str) -> None:
    cards.add()
    cards.add()
    cards.put(f"0/{key}", 1)
    async with reading(cards) as device:
        first, second = await device.devices()

    assert (first.state, words in first.trouble, second.state, second.trouble) == (DeviceState.UNVERIFIABLE, True, DeviceState.OK, "")


async def test_who_has_the_cards_node_open_and_is_not_listed_is_found_where_memory_is_nobodys(cards: FakeCards, kept: Kept) -> None:
    card = cards.add()
    cards.add()
    async with opening(cards.node()) as stranger, opening(cards.node(1)):
        leader = await kept.spawn("sh", "-c", f"exec sleep 3600 < {cards.node()}")
        await kept.until(lambda: Path(f"/proc/{leader}/comm").read_text() == "sleep\n")
        async with reading(cards, owners=kept.processes.owners) as device:
            unasked = await device.measure(DeviceId(card))
            cards.claim(stranger, GIB, listed=False)
            found = await device.measure(DeviceId(card))
            cards.claim(stranger, GIB)
            listed = await device.measure(DeviceId(card))

    assert (unasked.openers, listed.openers) == ((), ()), "nobody is looked for where all memory is somebody's"
    assert found.node == str(cards.node())
    assert {(one.worker, one.pid, one.name) for one in found.openers} == {(NAME, leader, "sleep"), (None, stranger, "sleep")}


async def test_a_fault_that_the_driver_reports_is_told_with_its_card(cards: FakeCards) -> None:
    faults: list[DeviceFaulted] = []
    cards.add()
    card = cards.add()
    async with reading(cards, faults=faults) as device:
        await device.devices()
        await device.measure(DeviceId(card))
        cards.report(79, card=1)
        async with asyncio.timeout(WITHIN_S):
            while not faults:
                await device.measure(DeviceId(card))

    assert faults == [DeviceFaulted(device=DeviceId(card), xid=79)]


async def test_cards_are_found_by_their_uuid_after_a_boot_that_gave_them_other_numbers(cards: FakeCards) -> None:
    first, second = cards.add(), cards.add("Fake A4000", total_bytes=16 * GIB)
    async with reading(cards) as device:
        before = await device.devices()
        for number, uuid in (("0", second), ("1", first)):
            cards.put(f"{number}/uuid", uuid)
        samples = [await device.measure(DeviceId(uuid)) for uuid in (first, second)]

    assert [one.id for one in before] == [first, second]
    assert [sample.total_bytes for sample in samples] == [16 * GIB, T4], "each is read at its new number"


async def test_what_a_worker_has_is_its_own_share_or_where_nobody_can_tell_the_whole(cards: FakeCards) -> None:
    card = DeviceId(cards.add())
    cards.claim(4242, GIB, release_s=NEVER)
    cards.claim(4243, 2 * GIB, release_s=NEVER)

    async def owners(pids: Collection[int]) -> Mapping[int, Owner]:
        return {pid: Owner(NAME if pid == 4242 else None, "") for pid in pids}

    async with reading(cards, owners=owners) as device:
        own, other = await device.used_by(NAME, card), await device.used_by(WorkerName("other-0"), card)
        cards.claim(4242, GIB, release_s=NEVER, shown=False)
        unsized = await device.used_by(NAME, card)
        cards.put("0/error", 15)
        unreadable = await device.used_by(NAME, card)
    async with reading(cards, own_pids=False) as device:
        cards.take("0/error")
        totals = await device.used_by(NAME, card)

    assert (own, other, unsized, unreadable, totals) == (GIB, 0, 3 * GIB, None, 3 * GIB)


async def test_a_card_that_is_lost_says_so_and_is_back_by_itself(cards: FakeCards) -> None:
    card = cards.add()
    async with reading(cards) as device:
        await device.measure(DeviceId(card))
        cards.put("0/error", 15)
        lost = await failing(device, card)
        cards.take("0/error")
        back = await until_read(device, card)

    assert lost.state is DeviceState.LOST
    assert "dmesg" in str(lost)
    assert back.free_bytes == T4


async def test_after_a_trouble_the_driver_is_asked_anew_by_another_process_and_not_at_once(cards: FakeCards) -> None:
    card = cards.add()
    cards.put("0/error", 16)
    async with reading(cards, patience=Patience(hello_s=WITHIN_S, first_s=WITHIN_S, pause_s=3600.0, pause_max_s=3600.0)) as device:
        first = await failing(device, card)
        cards.take("0/error")
        second = await failing(device, card)
        async with asyncio.timeout(WITHIN_S):  # an open handle would hold off a reset of the card
            while await asyncio.to_thread(_probes, cards):
                pass

    assert (str(first), first.state) == (str(second), second.state)


async def test_a_probe_that_hangs_is_abandoned_and_replaced_then_the_device_is_unresponsive_and_later_back(cards: FakeCards) -> None:
    card = cards.add()
    cards.put("0/hang")
    async with reading(cards, patience=SHORT) as device:
        first, second = await failing(device, card), await failing(device, card)
        abandoned = device._probes[DeviceId(card)].abandoned
        cards.take("0/hang")
        device._probes[DeviceId(card)]._patience = PATIENT
        back = await until_read(device, card)

    assert (first.state, second.state, abandoned) == (None, DeviceState.UNRESPONSIVE, 2)
    assert "the driver gave no answer within 0.3 s, and was abandoned (1 in a row)" in str(first)
    assert "restarted" in str(second)
    assert back.free_bytes == T4


async def test_probes_that_were_abandoned_leave_no_descriptor_behind(cards: FakeCards) -> None:
    card = cards.add()
    client = ProbeClient({**os.environ, **cards.env}, patience=PATIENT)
    await client.ask(card)
    with_one = _descriptors()
    cards.put("0/error", 15)
    for _ in range(3):
        with pytest.raises(DeviceError):
            await client.ask(card)
    cards.take("0/error")
    await client.ask(card)
    async with asyncio.timeout(WITHIN_S):
        for probe in client._left:
            await probe.ended.wait()
    with_another = _descriptors()
    await client.close()

    assert with_another == with_one
    assert _descriptors() < with_one


async def test_the_leaders_that_are_remembered_are_a_bounded_number() -> None:
    members = Members()
    for pid in range(10_000, 13_000):
        members.born(Record(worker=NAME, generation=1, token="", tag="", log="", boot_id="", pid=pid, start_ticks=1))

    assert len(members._was) == 1000
    assert members.owners((), ()) == {}


async def test_a_card_that_hangs_keeps_no_other_from_being_read(cards: FakeCards) -> None:
    hanging, other = cards.add(), cards.add()
    async with reading(cards) as device:
        await device.devices()
        await device.measure(DeviceId(hanging))
        cards.put("0/hang")
        stuck = asyncio.create_task(device.measure(DeviceId(hanging)))
        found = await device.measure(DeviceId(other))
        waited = not stuck.done()
        cards.take("0/hang")
        late = await stuck

    assert (found.free_bytes, waited, late.free_bytes) == (T4, True, T4)


async def test_all_who_asked_a_probe_that_hangs_are_told_and_it_counts_once(cards: FakeCards) -> None:
    card = cards.add()
    cards.put("0/hang")
    async with reading(cards, patience=SHORT) as device:
        errors = await asyncio.gather(*(failing(device, card) for _ in range(3)))

        assert device._probes[DeviceId(card)].abandoned == 1
    assert [error.state for error in errors] == [None] * 3


async def test_a_driver_without_a_card_stands_for_the_cards_that_may_come(cards: FakeCards) -> None:
    found: list[DevicesFound] = []
    async with reading(cards, found=found) as device:
        (stand_in,) = await device.devices()
        missing = await failing(device, NO_CARD)
        card = cards.add()
        async with asyncio.timeout(WITHIN_S):
            while not found:
                await failing(device, NO_CARD)
        sample = await device.measure(DeviceId(card))

    assert (stand_in.id, stand_in.state, stand_in.total_bytes) == (NO_CARD, DeviceState.UNVERIFIABLE, 0)
    assert stand_in.trouble == str(missing)
    assert "nvidia-smi -L" in stand_in.trouble
    assert ([one.id for one in found[0].devices], found[0].instead_of) == ([card], NO_CARD)
    assert sample.free_bytes == T4


async def test_a_driver_that_hangs_at_the_start_is_unresponsive(cards: FakeCards) -> None:
    cards.add()
    cards.put("hang-nvmlInitWithFlags")
    async with reading(cards, patience=SHORT) as device:
        (stand_in,) = await device.devices()

    assert (stand_in.id, stand_in.state) == (NO_CARD, DeviceState.UNRESPONSIVE)


async def test_a_driver_that_hangs_at_the_start_is_asked_on_and_its_cards_come_when_it_answers(cards: FakeCards) -> None:
    found: list[DevicesFound] = []
    card = cards.add()
    cards.put("hang-nvmlInitWithFlags")
    patience = Patience(hello_s=WITHIN_S, first_s=WITHIN_S, answer_s=WITHIN_S, pause_s=0.0, start_s=0.2)
    async with reading(cards, patience=patience, found=found) as device:
        first = await device.devices([DeviceId(card)])
        abandoned = device._probes[NO_CARD].abandoned
        cards.take("hang-nvmlInitWithFlags")
        await failing(device, NO_CARD)

    assert [(one.id, one.state) for one in first] == [(card, DeviceState.UNRESPONSIVE), (NO_CARD, DeviceState.UNRESPONSIVE)]
    assert "is asked on" in first[1].trouble
    assert abandoned == 0, "it was given no more than the start's time"
    assert [one.id for event in found for one in event.devices] == [card]


async def test_a_card_that_is_held_and_not_listed_is_lost_and_kept(cards: FakeCards) -> None:
    card = cards.add()
    async with reading(cards) as device:
        found = await device.devices([DeviceId(name) for name in (card, "GPU-of-yesterday", "host")])
        error = await failing(device, "GPU-of-yesterday")

    assert [(one.id, one.state) for one in found] == [(card, DeviceState.OK), ("GPU-of-yesterday", DeviceState.LOST)]
    assert error.state is DeviceState.LOST


async def test_two_who_read_the_stand_in_at_once_and_a_card_that_was_read_before_leave_no_probe(cards: FakeCards) -> None:
    async with reading(cards, patience=SHORT) as device:
        await device.devices()
        card = cards.add()
        await until_read(device, card)  # it was held, and has a probe of its own
        said: set[str] = set()
        async with asyncio.timeout(WITHIN_S):
            while said != {f"{card} answers by now"}:
                answers = await asyncio.gather(*(device.measure(NO_CARD) for _ in range(2)), return_exceptions=True)
                assert [type(answer) for answer in answers] == [DeviceError, DeviceError]
                said = {str(answer) for answer in answers}

        assert set(device._probes) == {card}


# --- a probe that is not ours at all: what it may say and do ---

HELLO = "import sys, time; print('{\"serial\": 0}', flush=True); sys.stdin.readline();"


def scripted(script: str) -> ProbeClient:
    """Return a client whose probe is this script."""
    return ProbeClient(os.environ, patience=PATIENT, argv=(sys.executable, "-c", script))


async def test_an_answer_to_another_question_is_ignored() -> None:
    late, right = '{"serial": 99, "cards": []}', '{"serial": 1, "cards": [{"uuid": "GPU-1", "name": "x", "total_bytes": 1}]}'
    client = scripted(f"{HELLO} print('{late}', flush=True); print('{right}', flush=True); sys.stdin.readline()")

    answer = await client.ask()
    await client.close()

    assert answer.cards is not None
    assert [card.uuid for card in answer.cards] == ["GPU-1"]


@pytest.mark.parametrize("end", ["sys.exit(3)", "print('no json', flush=True); sys.stdin.readline()", "import os; os.abort()"])
async def test_a_probe_that_ends_or_says_nonsense_is_replaced(end: str) -> None:
    client = scripted(f"{HELLO} {end}")

    errors = []
    for _ in range(PATIENT.tries):
        with pytest.raises(DeviceError, match="ended before it answered") as caught:
            await client.ask()
        errors.append(caught.value.state)
    await client.close()

    assert errors == [None, None, DeviceState.UNRESPONSIVE]


async def test_a_probe_that_cannot_be_started_is_an_error_of_the_device() -> None:
    client = ProbeClient(os.environ, argv=("/no/such/program",))

    with pytest.raises(DeviceError, match="could not be started: No such file"):
        await client.ask()


async def test_so_many_that_cannot_be_ended_are_enough(cards: FakeCards) -> None:
    cards.add()
    cards.put("hang")

    class Never(asyncio.Event):
        def set(self) -> None:
            """Stay as it is: as if the kernel kept the process."""

    client = ProbeClient({**os.environ, **cards.env}, patience=SHORT)
    for _ in range(SHORT.tries):
        with pytest.raises(DeviceError):
            await client.ask()
        client._left[-1].ended = Never()
    with pytest.raises(DeviceError, match="2 probes hang in the driver and cannot be ended") as caught:
        await client.ask()

    assert caught.value.state is DeviceState.UNRESPONSIVE


async def test_the_supervisor_can_be_interrupted_by_a_person_without_its_probes(cards: FakeCards) -> None:
    card = cards.add()
    async with reading(cards) as device:
        await device.measure(DeviceId(card))
        (probe,) = await asyncio.to_thread(_probes, cards)

        assert os.getpgid(probe) != os.getpgid(0), "Ctrl-C goes to the group of the terminal"


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _probes(cards: FakeCards) -> list[int]:
    found = processes_with(f"FAKE_NVML={cards.folder}")
    return [pid for pid in found if MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
