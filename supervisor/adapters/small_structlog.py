"""structlog without rich, which it imports for its coloured console wherever it is installed: 4 MiB that a supervisor never uses."""

import sys

_absent = "rich" not in sys.modules
if _absent:
    sys.modules["rich"] = None  # type: ignore[assignment]  # makes `import rich` fail, which structlog takes for "not installed"

import structlog  # noqa: E402  # only now

if _absent:
    del sys.modules["rich"]

__all__ = ["structlog"]
