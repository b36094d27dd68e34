"""`python -P -m supervisor.front`: the HTTP front as a process."""

import asyncio
import logging
import os
import resource
import socket
import sys

from supervisor.front.options import EXIT_CONFIG, BadOptions, read_options


def main() -> int:
    """Serve until SIGTERM. Returns the exit code."""
    try:
        options = read_options(os.environ)
        sockets = [socket.socket(fileno=number) for number in options.listen]
    except (BadOptions, OSError) as error:
        print(f"the HTTP front cannot start: {error}", file=sys.stderr, flush=True)  # noqa: T201  # its log, and the last that is seen of it
        return EXIT_CONFIG
    from supervisor.front.child import serve  # noqa: PLC0415  # a second of imports, which a mistake in the options need not wait for
    from supervisor.front.notices import Notices  # noqa: PLC0415

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))  # a thousand slow clients must not keep the next one out
    asyncio.run(serve(options, sockets, Notices.from_environ(os.environ)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
