"""A worker whose work is arithmetic of a fixed amount in plain Python: it shows costs that the noise of a training hides. Started by overhead.py."""

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import Struct

from workers.base import Job, Report, Worker, main


class SpinParams(Struct, frozen=True, kw_only=True):
    """How much: so many steps, each of so many turns of a loop. 40,000 turns are about 2 ms."""

    steps: int = 300
    turns: int = 40_000


class Spin(Worker):
    """Counts, and says so after each step, as a training does after each batch."""

    serves: ClassVar[tuple[str, ...]] = ("bench.spin",)
    params: ClassVar[Mapping[str, type[Struct]]] = {"bench.spin": SpinParams}

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Return how long it took, in seconds."""
        params: SpinParams = job.params
        began_s = time.perf_counter()
        for step in range(params.steps):
            total = 0
            for number in range(params.turns):
                total += number ^ step
            report.progress(step + 1, params.steps, phase="spin", metrics={"total": float(total)})
        return {"seconds": time.perf_counter() - began_s}


if __name__ == "__main__":
    main(Spin)
