"""The state diagrams of supervisor/DESIGN.md, drawn from the tables. `python -m tests.support.diagrams` writes them anew."""

import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from supervisor.core.jobs import JOB
from supervisor.core.lifecycle import DEVICE, LEASE, WORKER
from supervisor.core.model import DeviceState, JobStatus, LeaseState, WorkerState

DESIGN: Final = Path(__file__).parents[2] / "supervisor" / "DESIGN.md"


def diagram(table: Mapping[Any, Mapping[Any, StrEnum]], first: StrEnum) -> str:
    """Return the table as a mermaid stateDiagram, one arrow for each move, in the order of the table."""
    moves = [f"    {before} --> {after}: {signal}" for before, row in table.items() for signal, after in row.items()]
    ends = [f"    {state} --> [*]" for state, row in table.items() if not row]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *moves, *ends, "```"])


def blocks() -> dict[str, str]:
    """Return each diagram by the name in its marker, `<!-- NAME -->` to `<!-- end -->`."""
    return {
        "worker states": diagram(WORKER, WorkerState.DOWN),
        "lease states": diagram(LEASE, LeaseState.WAITING),
        "device states": diagram(DEVICE, DeviceState.OK),
        "job states": diagram(JOB, JobStatus.QUEUED),
    }


def redrawn(text: str) -> str:
    """Return the page with every diagram as its table is now. Raises ValueError where a marker is missing."""
    for name, drawn in blocks().items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"supervisor/DESIGN.md has no block from <!-- {name} --> to <!-- end -->: put the two markers where the diagram belongs")
        text = block.sub(lambda found, drawn=drawn: f"{found[1]}{drawn}\n{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> int:
    """Write the diagrams into the page."""
    DESIGN.write_text(redrawn(DESIGN.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
