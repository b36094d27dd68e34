"""The operator's word on workers: written down before anybody hears that it was taken."""

from collections.abc import Callable

from supervisor.core.actions import Announce, Reply, SaveWanted
from supervisor.errors import StoreError
from supervisor.runtime.ports import WantedStore


async def keep_word(action: SaveWanted, store: WantedStore, *, announce: Callable[[Announce], None], answer: Callable[[Reply], None]) -> None:
    """Write down what the operator wants, and answer. What cannot be written is done all the same, and said not to last."""
    error = ""
    try:
        await store.save(action.words)
    except StoreError as problem:
        error = f"it is done, but could not be written down, and is forgotten when this supervisor ends: {problem}"
        announce(Announce(event="store_failed", reason=f"where {', '.join(action.words)} is wanted: {error}"))
    if action.request:
        answer(Reply(request=action.request, error="failed" if error else "", message=error))
