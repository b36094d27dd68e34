"""`warden jobs submit`: a job made of a kind and its parameters."""

import json
import sys
from datetime import datetime
from pathlib import Path

import click

from supervisor.cli.complete import kinds
from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.cli.jobs.watched import watched
from supervisor.cli.locks import not_empty, size_text
from supervisor.control import JSONValue
from supervisor.shapes import JobView


@click.command()
@click.argument("kind", shell_complete=kinds)
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE …]")
@click.option("--params", "file", metavar="FILE", help="Parameters as a JSON object; KEY=VALUE goes before.")
@click.option("--priority", type=int, help="0 is the most urgent; default: the worker's.")
@click.option("--max-attempts", type=int, metavar="N", help="How often it is tried at the most, whatever it fails of.")
@click.option("--run-at", metavar="TIME", help="Not before that: ISO 8601, such as 2026-12-24T03:00 (local) or 2026-12-24T03:00Z.")
@click.option("--idempotency-key", metavar="K", help="The same key again makes no second job: it answers with the first.")
@click.option("--device", metavar="ID", callback=not_empty, help="On this device and no other, as `warden gpu status` names it.")
@click.option("--memory", metavar="SIZE", callback=size_text, help="What its worker has of the machine's memory at the most while it runs, such as 6GiB.")
@click.option("--hold", is_flag=True, help="It waits until: warden jobs start ID.")
@click.option("--wait", is_flag=True, help="Watch it to its end; exit 1 if it fails or is cancelled.")
@JSON
@click.pass_obj
def submit(context: Context, /, kind: str, pairs: tuple[str, ...], file: str | None, *, wait: bool, as_json: bool, **asked: JSONValue) -> None:
    """Submit a job and print its id. A VALUE is JSON, else text; one that names an existing path is made absolute."""
    params = {**_from_file(file), **_from_pairs(pairs)}
    if asked["run_at"] is not None:
        asked["run_at"] = _instant(asked["run_at"])
    chosen = {name: value for name, value in asked.items() if value is not None and value is not False}
    job = context.ask("jobs.submit", {"kind": kind, "params": params, **chosen}, JobView)
    if not wait:
        print_json(job) if as_json else print(job.id)
        return
    if not as_json:
        print(job.id)
    ended = watched(context, job.id, quiet=as_json)
    if as_json:
        print_json(ended)
    sys.exit(Exit.OK if ended.status == "completed" else Exit.FAILED)


def _instant(text: str) -> str:
    """Return the instant with its zone: what names none is local time here, and the supervisor may live in another."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise click.UsageError(f"--run-at {text!r}: expected an ISO 8601 time, such as 2026-12-24T03:00 (local) or 2026-12-24T03:00Z") from error


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


def _from_pairs(pairs: tuple[str, ...]) -> dict[str, JSONValue]:
    params: dict[str, JSONValue] = {}
    for key, value in map(_pair, pairs):
        if key in params:
            raise click.UsageError(f"{key} is given twice, as {json.dumps(params[key])} and as {json.dumps(value)}: give it once")
        params[key] = value
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
