"""`python -m supervisor` is `warden`. A run listens before anything else is loaded: that takes a third of a second, in which a SIGTERM would just end it."""

import sys
from typing import NoReturn

from supervisor import early


def main() -> NoReturn:
    """Run the command line and exit."""
    if _is_run(sys.argv[1:]):
        early.listen()
    from supervisor import cli  # noqa: PLC0415  # as the first line of this file says

    cli.main()


def _is_run(words: list[str]) -> bool:
    """Return whether the command is `run`. In front of it stands at most where the configuration is."""
    if words[:1] == ["--config"]:
        words = words[2:]
    elif words and words[0].startswith("--config="):
        words = words[1:]
    return words[:1] == ["run"]


if __name__ == "__main__":
    main()
