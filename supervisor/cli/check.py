"""`warden check` and `warden config`: what is wrong with the configuration, and what is in force."""

import os
import sys
from pathlib import Path

import click

from supervisor.cli.complete import config_keys
from supervisor.cli.context import JSON, Context, Exit, print_json
from supervisor.config import find, in_order, inspect, missing, spelled


@click.command()
@click.argument("file", required=False)
@JSON
@click.pass_obj
def check(context: Context, file: str | None, *, as_json: bool) -> None:
    """Say everything that is wrong with the configuration, each with its line; exit 78 if anything is."""
    path = find(file or context.config_path, context.environ, Path.cwd())
    print(path, file=sys.stderr)
    loaded, wrong = inspect(path, context.environ)
    problems = in_order((*wrong, *missing(loaded, context.environ, sys.executable)))
    if as_json:
        print_json({"file": str(path), "ok": not problems, "problems": problems})
    else:
        print("\n".join(map(str, problems)) or f"ok: {len(loaded.limits.workers)} workers")
    if problems:
        print(f"{len(problems)} to mend", file=sys.stderr)
        sys.exit(Exit.CONFIG)


@click.group()
def config() -> None:
    """Look at the configuration, and edit it."""


@config.command()
@click.option("--origin", is_flag=True, help="Also say who set each value.")
@JSON
@click.pass_obj
def show(context: Context, *, origin: bool, as_json: bool) -> None:
    """Print every value in force, as supervisor.toml would write it."""
    loaded = context.loaded
    values = spelled(loaded.limits)
    if as_json:
        print_json({key: {"value": value, "origin": loaded.origins.get(key, "default")} for key, value in values.items()})
        return
    width = max(map(len, values)) if os.isatty(1) else 0
    for key, value in values.items():
        who = f"   # {loaded.origins.get(key, 'default')}" if origin else ""
        print(f"{key:<{width}} = {value}{who}")


@config.command()
@JSON
@click.pass_obj
def diff(context: Context, *, as_json: bool) -> None:
    """Say what a reload would change in the running supervisor, and what each change takes. Exit 78 if something is wrong with the file."""
    changed = context.ask("config.diff", {}, list[str])
    if as_json:
        print_json(changed)
    else:
        print("\n".join(changed) if changed else "a reload would change nothing")


@config.command("set")
@click.argument("key", shell_complete=config_keys)
@click.argument("value")
@click.pass_obj
def set_value(context: Context, key: str, value: str) -> None:
    """Set KEY (watchdog.stall_after) to VALUE (20m) in the file; comments stay. What would not be valid is refused with exit 78, and nothing is written.

    A running supervisor takes the file by itself within seconds.
    """
    from supervisor.config.edit import set_key  # its library is for this command alone

    edited = set_key(find(context.config_path, context.environ, Path.cwd()), key, value, context.environ)
    print("\n".join(edited.changed) if edited.changed else "nothing changed")
    print(edited.path, file=sys.stderr)
    if edited.overruled:
        print(f"{edited.overruled} sets {key} as well, and wins over the file", file=sys.stderr)
