"""Shell completion: what the running supervisor knows, within a moment, and nothing at all where none runs."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import click
import msgspec
from click.shell_completion import CompletionItem, get_completion_class

from supervisor.cli.context import Context, Shape
from supervisor.config import spelled
from supervisor.control import JSONValue, Refused, Unreachable
from supervisor.errors import SupervisorError
from supervisor.shapes import JobsPage, KindView, StatusView

LIVE: Final = ("queued", "preparing", "running", "pausing", "paused", "cancelling")
ENDED: Final = ("completed", "failed", "cancelled")

_WITHIN_S: Final = 0.5
"""A person who pressed the tab key waits no longer."""

_SHOWN: Final = 50
_VARIABLE: Final = "_WARDEN_COMPLETE"

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def job_ids(*statuses: str) -> Complete:
    """Return what completes the id of a job, the newest first; of those in one of the statuses, where any is named."""

    def complete(click_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        page = _ask(click_context, "jobs.page", {"statuses": statuses, "limit": _SHOWN}, JobsPage)
        return _fitting(((job.id, f"{job.kind}, {job.status}") for job in page.jobs) if page else (), incomplete)

    return complete


def statuses(_click_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a status."""
    return [CompletionItem(status) for status in (*LIVE, *ENDED) if status.startswith(incomplete)]


def kinds(click_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a kind of job."""
    found = _ask(click_context, "kinds", {}, list[KindView])
    return _fitting(((kind.kind, kind.worker) for kind in found or ()), incomplete)


def workers(click_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete the name of a worker, or of a model, which means all of its workers."""
    view = _ask(click_context, "status", {}, StatusView)
    if view is None:
        return []
    models = {worker.model: "all of them" for worker in view.workers}
    return _fitting(({worker.name: worker.state for worker in view.workers} | models).items(), incomplete)


def config_keys(click_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a key of supervisor.toml; the value in force is shown beside it."""
    try:
        return _fitting(spelled(_context(click_context).loaded.limits).items(), incomplete)
    except (SupervisorError, OSError):
        return []


def _fitting(known: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem[str]]:
    return [CompletionItem(word, help=about) for word, about in known if word.startswith(incomplete)]


def _ask(click_context: click.Context, op: str, args: Mapping[str, JSONValue], shape: type[Shape]) -> Shape | None:
    """Return the answer, None where there is none in time: whoever completes a word must not be told why."""
    try:
        return _context(click_context).ask(op, args, shape, timeout_s=_WITHIN_S)
    except (SupervisorError, Refused, Unreachable, OSError, msgspec.ValidationError):
        return None


def _context(click_context: click.Context) -> Context:
    return Context(config_path=click_context.find_root().params.get("config_path"), environ=dict(os.environ), quiet=True)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(click_context: click.Context, shell: str) -> None:
    """Print what a shell needs to complete commands, jobs, kinds and workers: eval "$(warden completion bash)" in ~/.bashrc."""
    kind = get_completion_class(shell)
    if kind is not None:
        print(kind(click_context.find_root().command, {}, "warden", _VARIABLE).source())
