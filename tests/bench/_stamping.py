"""A worker for the benchmarks whose progress says when it was made: the metric `said_at_s` is the clock that every process of this machine reads."""

import time
from typing import Any, ClassVar

from msgspec import Struct

from workers.base import Job, Report, Worker, main


class Params(Struct, frozen=True, kw_only=True):
    """How many times it tells, and how long it rests before each."""

    times: int = 10
    rest_s: float = 0.3


class Propagation(Struct, frozen=True, kw_only=True):
    """What a session asks for; the masks are put there by whoever measures."""

    video: str
    prompts: list[Any]
    first_frame: int | None = None
    max_frames: int | None = None


class Stamping(Worker):
    """Rests and tells, again and again."""

    serves: ClassVar[tuple[str, ...]] = ("bench.stamp", "sam.propagate")
    params: ClassVar[dict[str, type[Struct]]] = {"bench.stamp": Params, "sam.propagate": Propagation}

    def load(self) -> None:
        """There is nothing to load."""

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Tell so often; a propagation is done at once."""
        if isinstance(job.params, Params):
            for number in range(1, job.params.times + 1):
                time.sleep(job.params.rest_s)  # noqa: TID251  # the rest is what is measured after
                report.progress(number, job.params.times, phase="stamp", metrics={"said_at_s": time.monotonic()})
        return {}


if __name__ == "__main__":
    main(Stamping)
