"""NVIDIA cards as devices, read by probes: how much of each is free, and whose the processes are that the driver lists."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from supervisor.adapters.openers import openers
from supervisor.adapters.probe_client import Patience, ProbeClient
from supervisor.adapters.tree_members import Owner
from supervisor.core.events import DeviceFaulted, DevicesFound
from supervisor.core.gpu import UNLISTED_BYTES
from supervisor.core.model import Device, DeviceId, DeviceSample, DeviceState, Holding, WorkerName
from supervisor.probing import Card, Reading, User, Xid
from supervisor.runtime.ports import DeviceError

NO_CARD: Final = DeviceId("nvml")
"""Stands for the cards of a machine whose driver lists none, or does not answer."""
_FIRST_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the kernel's first pid namespace, the one that the driver counts in; in a container /proc has another."""
_BACKEND: Final = "nvml"
_FREE: Final = "free memory as NVML shows it, read twice"
_TOTALS: Final = "totals only"
NODES: Final = "/dev/nvidia"
"""What a card's node is called, before its number."""

Owners = Callable[[Collection[int]], Awaitable[Mapping[int, Owner]]]


def counts_our_pids() -> bool:
    """Return whether the pids that the driver lists are those of this process's own namespace, as far as can be told before one of ours was listed."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_NAMESPACE
    except OSError:
        return False


def lists_processes() -> bool:
    """Return whether a driver on this kernel lists who uses a card: under WSL it lists nobody, or those of another machine."""
    try:
        return "microsoft" not in Path("/proc/sys/kernel/osrelease").read_text().lower()
    except OSError:
        return True


class NvmlDevice:
    """The cards of this machine. Each has a probe of its own, so that one card that hangs keeps no other from being read."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        owners: Owners,
        post: Callable[[DevicesFound | DeviceFaulted], None],
        patience: Patience | None = None,
        own_pids: bool | None = None,
        lists: bool | None = None,
        nodes: str = NODES,
    ) -> None:
        """Read nothing yet. owners: whose pids are; post: hears of cards that answer by now and did not at the start, and of faults.

        own_pids, lists: whether pids are of our own namespace, and whether there are any; None to find out. nodes: where the cards' nodes are.
        """
        self._environ = environ
        self._patience = patience or Patience()
        self._owners = owners
        self._post = post
        self._own_pids = counts_our_pids() if own_pids is None else own_pids
        self._lists = lists_processes() if lists is None else lists
        self._nodes = nodes
        self._probes: dict[DeviceId, ProbeClient] = {}
        self._places: dict[DeviceId, int] = {}

    async def devices(self, held: Iterable[DeviceId] = ()) -> tuple[Device, ...]:
        """Return the cards, as the fleet knows them at its start.

        Never none: what stands for cards that do not answer is a device that says why, and so is a card that is held and not listed.
        A driver that hangs is not waited for longer than a good one may need: it is asked on, and its cards come when it answers.
        """
        found: tuple[Device, ...] = ()
        why, state = "the driver did not list this card at the start", DeviceState.LOST
        try:
            await self._probe(NO_CARD).begin()
            async with asyncio.timeout(self._patience.start_s):
                found = await self._listed()
        except DeviceError as error:
            why, state = str(error), error.state or DeviceState.UNVERIFIABLE
        except TimeoutError:
            why, state = f"the driver has given no answer for {self._patience.start_s:g} s, and is asked on", DeviceState.UNRESPONSIVE
        ids = {device.id for device in found}
        away = {name for name in held if name not in ids and name.startswith(("GPU-", "MIG-"))}
        missing = [_absent(name, "a card that is not listed", why, state) for name in sorted(away)]
        return (*found, *missing, *(() if found else (_absent(NO_CARD, "no card", why, state),)))

    async def measure(self, device: DeviceId) -> DeviceSample:
        """Return one reading. Raises DeviceError, after 2 s at the latest where a probe has answered before."""
        if device == NO_CARD:
            cards = await self._listed()
            self._post(DevicesFound(devices=cards, instead_of=NO_CARD))
            raise DeviceError(f"{', '.join(card.id for card in cards)} answers by now", DeviceState.LOST)
        answer = await self._probe(device).ask(device, self._places.get(device, -1))
        if answer.reading is None:
            raise DeviceError("the probe answered something else than it was asked")
        return await self._sample(answer.reading)

    async def used_by(self, worker: WorkerName, device: DeviceId) -> int | None:
        """Return what the worker's processes have of the card; where sizes or owners are not told, what is used of the card by everybody."""
        try:
            sample = await self.measure(device)
        except DeviceError:
            return None
        if not sample.by_pid or any(holding.used_bytes is None for holding in sample.holdings if holding.worker == worker):
            return sample.used_bytes
        return sum(holding.used_bytes or 0 for holding in sample.holdings if holding.worker == worker)

    async def close(self) -> None:
        """End the probes."""
        for probe in self._probes.values():
            await probe.close()

    def _probe(self, device: DeviceId) -> ProbeClient:
        if device not in self._probes:
            self._probes[device] = ProbeClient(self._environ, patience=self._patience, hear=self._faulted)
        return self._probes[device]

    def _faulted(self, xid: Xid) -> None:
        self._post(DeviceFaulted(device=DeviceId(xid.card), xid=xid.code))

    async def _listed(self) -> tuple[Device, ...]:
        answer = await self._probe(NO_CARD).ask()
        cards = answer.cards or ()
        self._places = {DeviceId(card.uuid): card.place for card in cards}
        lister = self._probes.pop(NO_CARD, None) if cards else None  # None: another reading at the same time has dealt with it
        if lister is not None and self._probes.setdefault(DeviceId(cards[0].uuid), lister) is not lister:  # else it goes on with the first card
            await lister.close()
        return tuple(map(self._device, cards))

    def _device(self, card: Card) -> Device:
        trouble = card.trouble
        unread = f"{trouble.what}; {trouble.hint}" if trouble is not None else "" if card.total_bytes else "its memory could not be read"
        failed = DeviceState(trouble.state) if trouble is not None else DeviceState.UNVERIFIABLE
        return Device(
            id=DeviceId(card.uuid),
            name=card.name,
            backend=_BACKEND,
            total_bytes=card.total_bytes,
            state=failed if unread else DeviceState.OK,
            proof=self._proof(listed=self._lists, sized=True),
            trouble=unread,
        )

    async def _sample(self, reading: Reading) -> DeviceSample:
        listed = self._lists and reading.users is not None
        users = reading.users or () if listed else ()
        owners = await self._owners([user.pid for user in users])
        self._own_pids = self._own_pids or any(owner.worker for owner in owners.values())
        sized = all(user.used_bytes is not None for user in users)
        node = "" if reading.minor is None else f"{self._nodes}{reading.minor}"
        unlisted_bytes = reading.used_bytes - sum(user.used_bytes or 0 for user in users)
        return DeviceSample(
            used_bytes=reading.used_bytes,
            free_bytes=reading.free_bytes,
            holdings=_holdings(users, owners),
            total_bytes=reading.total_bytes,
            node=node,
            openers=await self._openers(node, owners) if node and unlisted_bytes > UNLISTED_BYTES else (),
            proof=self._proof(listed=listed, sized=sized),
            by_pid=listed and self._own_pids,
            by_process=listed and self._own_pids and sized,
        )

    async def _openers(self, node: str, listed: Collection[int]) -> tuple[Holding, ...]:
        """Return who has a card's node open and is not listed; our own probes have."""
        ours = {pid for probe in self._probes.values() for pid in probe.pids()}
        pids = [pid for pid in await asyncio.to_thread(openers, node) if pid not in listed and pid not in ours]
        owners = await self._owners(pids)
        return tuple(Holding(one.worker, pid, None, one.name, one.above) for pid, one in owners.items())

    def _proof(self, *, listed: bool, sized: bool) -> str:
        """Return which proof can be given here."""
        if not listed:
            return f"{_FREE}; {_TOTALS}: the driver lists no processes"
        if not self._own_pids:
            return f"{_FREE}; {_TOTALS}: the pids that it lists may be another namespace's (a container), until one of ours is among them"
        return f"{_FREE}; whose it is, by pid{'' if sized else ', without sizes'}"


def _absent(name: DeviceId, called: str, why: str, state: DeviceState) -> Device:
    return Device(id=name, name=called, backend=_BACKEND, total_bytes=0, state=state, trouble=why)


def _holdings(users: Iterable[User], owners: Mapping[int, Owner]) -> tuple[Holding, ...]:
    """Return what each worker has together, by the process that has the most, and what each process has that is not ours."""
    ours: dict[WorkerName, list[User]] = {}
    strangers = []
    for user in users:
        owner = owners.get(user.pid) or Owner(None, "")
        if owner.worker is None:
            strangers.append(Holding(None, user.pid, user.used_bytes, owner.name, owner.above))
        else:
            ours.setdefault(owner.worker, []).append(user)
    return (*(_together(worker, has) for worker, has in ours.items()), *strangers)


def _together(worker: WorkerName, users: list[User]) -> Holding:
    sizes = [user.used_bytes for user in users]
    most = max(users, key=lambda user: user.used_bytes or 0)
    return Holding(worker, most.pid, None if None in sizes else sum(size or 0 for size in sizes))
