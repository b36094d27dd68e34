"""`warden jobs`: submit, list, show, watch and cancel."""

import json
import sys
from pathlib import Path

import click

from supervisor.cli.context import Context, Exit, print_json
from supervisor.cli.screen import ago, bar, clock, colour, size, table, tone_of
from supervisor.control import JSONValue
from supervisor.shapes import JobView

_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


def _watched(context: Context, job: str, *, quiet: bool) -> JobView:
    from supervisor.cli.watch import watch_job  # rich costs 4 MiB, and `warden run` comes through this module as well

    return watch_job(context, job, quiet=quiet)


@click.group()
def jobs() -> None:
    """Submit work, and see what became of it."""


@jobs.command()
@click.argument("kind")
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--params", "file", metavar="FILE", help="Parameters as a JSON object; KEY=VALUE goes before.")
@click.option("--priority", type=int, help="0 is the most urgent; default: the worker's.")
@click.option("--wait", is_flag=True, help="Watch it to its end; exit 1 if it fails or is cancelled.")
@_JSON
@click.pass_obj
def submit(context: Context, kind: str, pairs: tuple[str, ...], file: str | None, priority: int | None, *, wait: bool, as_json: bool) -> None:
    """Submit a job and print its id. A VALUE is JSON, else text; one that names an existing path is made absolute."""
    params = {**_from_file(file), **dict(_pair(pair) for pair in pairs)}
    args: dict[str, JSONValue] = {"kind": kind, "params": params}
    if priority is not None:
        args["priority"] = priority
    job = context.ask("jobs.submit", args, JobView)
    if not wait:
        print_json(job) if as_json else print(job.id)
        return
    if not as_json:
        print(job.id)
    ended = _watched(context, job.id, quiet=as_json)
    if as_json:
        print_json(ended)
    sys.exit(Exit.OK if ended.status == "completed" else Exit.FAILED)


def _from_file(file: str | None) -> dict[str, JSONValue]:
    if file is None:
        return {}
    try:
        params = json.loads(Path(file).read_text())
    except OSError as error:
        raise click.UsageError(f"--params {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file}: not UTF-8 text: expected a JSON object") from error
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise click.UsageError(f"{file}: nested too deep to be read: make it flatter") from error
    if not isinstance(params, dict):
        raise click.UsageError(f'{file}: expected a JSON object such as {{"epochs": 3}}, found {type(params).__name__}')
    return params


def _pair(pair: str) -> tuple[str, JSONValue]:
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise click.UsageError(f"{pair!r}: expected KEY=VALUE, such as epochs=3")
    try:
        value: JSONValue = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        value = text
    return key, _absolute(value) if isinstance(value, str) and value else value


def _absolute(text: str) -> str:
    """Return a text that names an existing path as an absolute path, any other as it is."""
    try:
        path = Path(text).expanduser()
        return str(path.absolute()) if path.exists() else text
    except (OSError, ValueError, RuntimeError):  # too long for a name, or of a user that is not there: a text then
        return text


@jobs.command("list")
@click.option("--status", "statuses", multiple=True, help="Only jobs in this status; may be given more than once.")
@click.option("--kind", default="", help="Only jobs of this kind.")
@click.option("-n", "--limit", default=20, show_default=True, help="How many at the most, the newest first.")
@_JSON
@click.pass_obj
def list_jobs(context: Context, statuses: tuple[str, ...], kind: str, limit: int, *, as_json: bool) -> None:
    """List jobs, the newest first."""
    found = context.ask("jobs.list", {"statuses": statuses, "kind": kind, "limit": limit}, list[JobView])
    if as_json:
        print_json(found)
        return
    rows = [(job.id, job.kind, job.status, f"{job.progress:.0f} %", clock(job.created_at), job.worker or "-", _gist(job)) for job in found]
    print("\n".join(table(("JOB", "KIND", "STATUS", "DONE", "CREATED", "WORKER", "NOTE"), rows, state_column=2)) if rows else "no jobs")


def _gist(job: JobView) -> str:
    if job.status == "queued":
        return f"place {job.position}: {job.message or job.reason or 'is about to be placed'}"
    words = [job.reason, job.message] if job.message or job.reason else [job.phase, " ".join(f"{name} {value:.3g}" for name, value in job.metrics.items())]
    return ": ".join(word for word in words if word)


@jobs.command()
@click.argument("job")
@_JSON
@click.pass_obj
def show(context: Context, job: str, *, as_json: bool) -> None:
    """Show one job; the beginning of its id is enough."""
    view = context.ask("jobs.show", {"job": job}, JobView)
    if as_json:
        print_json(view)
    else:
        print("\n".join(_screen(view)))


def _screen(job: JobView) -> list[str]:
    lines = [f"{job.id}  {job.kind}  {colour(job.status, tone_of(job.status))}" + (f"  {job.phase}" if job.phase else "")]
    if job.status == "queued":
        lines.append(f"waits     place {job.position}: {job.message or job.reason or 'is about to be placed'}")
    if job.total:
        eta = f"  about {ago(job.eta_s)} left" if job.eta_s is not None else ""
        lines.append(f"progress  {bar(job.progress / 100)} {job.progress:.0f} %  {job.done:g} of {job.total:g}{eta}")
    if job.metrics:
        lines.append("metrics   " + "  ".join(f"{name} {value:.4g}" for name, value in job.metrics.items()))
    lines.append(f"times     created {clock(job.created_at)}  started {clock(job.started_at)}  ended {clock(job.completed_at)}")
    lines.append(f"where     worker {job.worker or '-'}  device {job.device or '-'}  priority {job.priority}  attempt {job.attempt} of {job.max_attempts}")
    lines.append(f"params    {json.dumps(job.params)}")
    lines.append(f"files     {job.dir}")
    if job.cancel is not None:
        lines.append(f"cancel    {size(job.cancel.freed_bytes)} freed in {job.cancel.took_s:.1f} s")
    if job.result is not None:
        lines += ["result", *("  " + line for line in json.dumps(job.result, indent=2).splitlines())]
    if job.error is not None:
        lines += death_certificate(job)
    elif job.status != "queued" and job.message:
        lines.append(f"note      {job.message}")
    return lines


def death_certificate(job: JobView) -> list[str]:
    """Return why the job has no result: reason, evidence, last phase, stack, the end of the worker's log."""
    error = job.error
    if error is None:
        return []
    lines = [colour(f"failed    {error.reason}: {error.message}", "bad")]
    if error.evidence and error.evidence != error.message:
        lines.append(f"evidence  {error.evidence}")
    if error.phase:
        lines.append(f"phase     {error.phase}")
    for name, text in (("stack", error.stack.splitlines()), ("log", error.log_tail[-12:])):
        if text:
            lines += [name, *(f"  {line}" for line in text)]
    return lines


@jobs.command()
@click.argument("job")
@_JSON
@click.pass_obj
def why(context: Context, job: str, *, as_json: bool) -> None:
    """Say what a job waits for, or, where it has no result, why: its death certificate."""
    view = context.ask("jobs.show", {"job": job}, JobView)
    if as_json:
        print_json({"job": view.id, "status": view.status, "reason": view.reason, "message": view.message, "position": view.position, "error": view.error})
        return
    print("\n".join(_reasons(view)))


def _reasons(job: JobView) -> list[str]:
    if job.error is not None:
        return [f"{job.id} ({job.kind}) has no result.", *death_certificate(job)]
    if job.status == "queued":
        waits = f"{job.id} waits: {job.message or job.reason or 'it is about to be placed'}"
        order = f"  place    {job.position} in the queue, priority {job.priority} (0 is the most urgent), waiting since {clock(job.created_at)}"
        return [waits, order, f"  you can  warden jobs cancel {job.id} | warden gpu status | warden jobs watch {job.id}"]
    where = f"on {job.worker or 'no worker'}, phase {job.phase or '?'}, {job.done:g} of {job.total:g}" if job.completed_at is None else job.message
    return [f"{job.id} is {job.status}{f': {where}' if where else ''}"]


@jobs.command()
@click.argument("job")
@_JSON
@click.pass_obj
def watch(context: Context, job: str, *, as_json: bool) -> None:
    """Watch a job to its end; exit 1 if it fails or is cancelled. Ctrl-C leaves the job running."""
    ended = _watched(context, job, quiet=as_json)
    if as_json:
        print_json(ended)
    sys.exit(Exit.OK if ended.status == "completed" else Exit.FAILED)


@jobs.command()
@click.argument("job")
@click.option("--no-wait", is_flag=True, help="Do not wait until its memory is proved back.")
@_JSON
@click.pass_obj
def cancel(context: Context, job: str, *, no_wait: bool, as_json: bool) -> None:
    """Cancel a job, and say what that gave back."""
    view = context.ask("jobs.cancel", {"job": job}, JobView)
    if not no_wait and view.status == "cancelling":
        view = _watched(context, view.id, quiet=True)
    if as_json:
        print_json(view)
    elif view.cancel is not None:
        print(f"{view.id} {view.status}: {size(view.cancel.freed_bytes)} freed in {view.cancel.took_s:.1f} s{f' ({view.message})' if view.message else ''}")
    else:
        print(f"{view.id} is {view.status}")
