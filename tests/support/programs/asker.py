"""A worker of the SDK whose steps are long, and known to be: {"ask_s": 6, "step_s": 3} asks for six seconds before a step of three."""

import select
from typing import Any, ClassVar

from workers.base import Job, Report, Worker, main


class Asker(Worker):
    """Takes its time, and says so."""

    serves: ClassVar[tuple[str, ...]] = ("demo.ask", "demo.long", "demo.short")

    def load(self) -> None:
        """Nothing to load."""

    def run(self, job: Job, report: Report) -> dict[str, Any]:
        """Do one long step."""
        report.progress(0, 1, phase="compile")
        if job.params["ask_s"]:
            report.extend(job.params["ask_s"])
        select.select([], [], [], job.params["step_s"])
        report.progress(1, 1, phase="done")
        return {"compiled": True}


if __name__ == "__main__":
    main(Asker)
