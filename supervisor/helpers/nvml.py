"""What NVML shows of the cards of this machine, through pynvml; each trouble has a state and a hint what to do. Any call may hang in the driver."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import pynvml

from supervisor.probing import Card, Reading, Trouble, User

_UNNAMED_PIDS: Final = frozenset({0, 2**32 - 1})
"""What drivers put in the place of a pid when they and the binding disagree about the struct."""
_LIST_TRIES: Final = 3
"""Of a list that grew between the question for its length and the list itself."""
_FAILURES: Final = (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError)
"""The second is no NVMLError: pynvml raises it in place of FUNCTION_NOT_FOUND where the driver is older than the binding."""

_State = Literal["lost", "unverifiable"]
_RESET: Final = "look for Xid lines in dmesg; reset the card (nvidia-smi --gpu-reset) or restart the machine"
_DRIVER: Final = "look at nvidia-smi and at the NVRM lines in dmesg"

_KNOWN: Final[dict[int, tuple[_State, str, str]]] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "unverifiable",
        "the driver's library, libnvidia-ml.so.1, is not there",
        'install the NVIDIA driver (in a container: run it with the GPUs), or set gpu.backend = "host" or "none"',
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "unverifiable",
        "the driver is not loaded",
        "modprobe nvidia, and see dmesg if that fails",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "unverifiable",
        "the driver in the kernel and its library are of two versions: it was upgraded while it was loaded",
        "restart the machine, or unload the nvidia modules and load them again",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "unverifiable",
        "the driver denies the reading",
        "let Warden's user read and write /dev/nvidia* (systemd: DeviceAllow; a container: its device rules)",
    ),
    pynvml.NVML_ERROR_NOT_SUPPORTED: (
        "unverifiable",
        "the driver cannot tell how much of this card's memory is free",
        'integrated GPUs and some virtual ones cannot be measured: set gpu.backend = "host"',
    ),
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: ("unverifiable", "the driver is too old to be asked this", "upgrade the NVIDIA driver"),
    pynvml.NVML_ERROR_GPU_IS_LOST: ("lost", "the card has fallen off the bus or is not accessible any more", _RESET),
    pynvml.NVML_ERROR_RESET_REQUIRED: ("lost", "the card must be reset before it can be used again", _RESET),
    pynvml.NVML_ERROR_UNKNOWN: ("lost", "the driver failed without saying why", _RESET),
    pynvml.NVML_ERROR_NOT_FOUND: ("lost", "the driver does not list this card any more", _DRIVER),
    pynvml.NVML_ERROR_GPU_NOT_FOUND: ("lost", "the driver does not list this card any more", _DRIVER),
}
_LOST: Final = frozenset(code for code, (state, _, _) in _KNOWN.items() if state == "lost")
_NO_CARD: Final = Trouble(state="unverifiable", what="the driver works, and lists no card", hint="look at nvidia-smi -L and lspci; in a container: its GPUs")
_MIG: Final = Trouble(
    state="unverifiable",
    what="MIG mode is on: what is free on the card says nothing about one of its parts",
    hint='this release knows whole cards only: turn it off (nvidia-smi -mig 0), or set gpu.backend = "none"',
)
_COHERENT: Final = Trouble(
    state="unverifiable",
    what="the card's memory is a NUMA node of the machine: what a process had there may stay in use after its end",
    hint='nothing can be proved free on it: set gpu.backend = "host"',
)


class Unreadable(Exception):
    """There is no reading; `trouble` says why."""

    def __init__(self, trouble: Trouble) -> None:
        """Keep the trouble."""
        super().__init__(trouble.what)
        self.trouble = trouble


def open_driver() -> None:
    """Load the driver's library and begin. Raises Unreadable."""
    _asked("nvmlInit", pynvml.nvmlInit)


def cards() -> tuple[Card, ...]:
    """Return every card that the driver lists; one that cannot be read is among them, without a size. Raises Unreadable, also where there is none."""
    count = _asked("nvmlDeviceGetCount", pynvml.nvmlDeviceGetCount)
    found = [card for card in map(_card, range(count)) if card is not None]
    if not found:
        raise Unreadable(_NO_CARD)
    return tuple(found)


def _card(index: int) -> Card | None:
    """Return a card; None for one that is not even named."""
    handle = _at(index)
    uuid = _uuid_of(handle) if handle is not None else ""
    if not uuid:
        return None
    try:
        name = _read(lambda: str(pynvml.nvmlDeviceGetName(handle))) or "a card without a name"
        memory = _read(lambda: _memory(handle))
        trouble = _unprovable(handle)
    except Unreadable as error:  # one that is lost keeps no other from being listed
        name, memory, trouble = "a card without a name", None, error.trouble
    return Card(uuid=uuid, name=name, total_bytes=int(memory.total) if memory is not None else 0, place=index, trouble=trouble)


def handle_of(uuid: str, place: int) -> Any:
    """Return the card's handle. Raises Unreadable.

    place: the number that it had when the cards were listed. It is tried first: a look-up by UUID alone may begin every other card on its way, and so hang,
    or fail, because of one of those. Numbers change from boot to boot, so what is found there is compared.
    """
    handle = _at(place) if place >= 0 else None
    if handle is not None and _uuid_of(handle) == uuid:
        return handle
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except _FAILURES as error:
        for other in range(_read(pynvml.nvmlDeviceGetCount) or 0):
            handle = _at(other)
            if handle is not None and _uuid_of(handle) == uuid:
                return handle
        raise Unreadable(_trouble("nvmlDeviceGetHandleByUUID", error)) from error


def _at(place: int) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(place)
    except _FAILURES:
        return None


def _uuid_of(handle: Any) -> str:
    try:
        return str(pynvml.nvmlDeviceGetUUID(handle))
    except _FAILURES:
        return ""


def _unprovable(handle: Any) -> Trouble | None:
    """Return why what is free on the card proves nothing. Raises Unreadable for a card that is lost."""
    mode = _read(lambda: pynvml.nvmlDeviceGetMigMode(handle))
    if mode is not None and mode[0]:
        return _MIG
    return _COHERENT if _read(lambda: pynvml.nvmlDeviceGetAddressingMode(handle)) == pynvml.NVML_DEVICE_ADDRESSING_MODE_ATS else None


def reading(handle: Any) -> Reading:
    """Return a reading of one card. Raises Unreadable."""
    if (trouble := _unprovable(handle)) is not None:
        raise Unreadable(trouble)
    memory = _asked("nvmlDeviceGetMemoryInfo", lambda: _memory(handle))
    rates = _read(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    return Reading(
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        free_bytes=int(memory.free),
        users=_users(handle, int(memory.total)),
        utilisation=int(rates.gpu) if rates is not None else None,
        minor=_read(lambda: int(pynvml.nvmlDeviceGetMinorNumber(handle))),
    )


def _memory(handle: Any) -> Any:
    """Return total, used, free: by the second version, which keeps the driver's own reserve apart, where there is one that works. Raises _FAILURES."""
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except _FAILURES as error:
        if _code(error) in _LOST:
            raise
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _users(handle: Any, total_bytes: int) -> tuple[User, ...] | None:
    """Return who uses the card, each process once; None where the driver lists nobody's processes. Raises Unreadable for a card that is lost."""
    compute = _listed((pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetComputeRunningProcesses_v2), handle)
    graphics = _listed((pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2), handle)
    if compute is None:
        return None
    used: dict[int, int | None] = {}
    for process in (*compute, *(graphics or ())):
        pid, size = int(process.pid), process.usedGpuMemory
        if pid in _UNNAMED_PIDS:
            continue
        known = int(size) if size is not None and size <= total_bytes else None
        before = used.get(pid)
        used[pid] = known if before is None else max(before, known or 0)  # in both lists: the size is that of the process in each
    return tuple(User(pid=pid, used_bytes=size) for pid, size in used.items())


def _listed(versions: Sequence[Callable[[Any], list[Any]]], handle: Any) -> list[Any] | None:
    """Return the list by the first version that this driver has; None where it gives none."""
    for version in versions:
        for _ in range(_LIST_TRIES):
            try:
                return version(handle)
            except _FAILURES as error:
                if _code(error) in _LOST:
                    raise Unreadable(_trouble("its list of processes", error)) from error
                if _code(error) != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
                    break
    return None


def _asked(call: str, ask: Callable[[], Any]) -> Any:
    """Return what the driver answers. Raises Unreadable."""
    try:
        return ask()
    except _FAILURES as error:
        raise Unreadable(_trouble(call, error)) from error


def _read(ask: Callable[[], Any]) -> Any:
    """Return what the driver answers to something that can be done without; None where it does not. Raises Unreadable for a card that is lost."""
    try:
        return ask()
    except _FAILURES as error:
        if _code(error) == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise Unreadable(_trouble("a reading", error)) from error
        return None


def _code(error: Exception) -> int:
    return int(getattr(error, "value", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND))


def _trouble(call: str, error: Exception) -> Trouble:
    code = _code(error)
    state, what, hint = _KNOWN.get(code, ("unverifiable", f"the driver answered: {error}", _DRIVER))
    return Trouble(state=state, what=f"{what} (NVML {code} at {call})", hint=hint)
