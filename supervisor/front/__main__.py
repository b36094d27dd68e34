"""`python -P -m supervisor.front`: the HTTP front as a process."""

import sys

from supervisor.front.child import main

if __name__ == "__main__":
    sys.exit(main())
