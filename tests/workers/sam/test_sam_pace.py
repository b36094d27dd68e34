"""A propagation says every 50th frame how fast it is, in its log, and moves its progress at each."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from workers.report import Job, Report
from workers.sam.pace import Pace


def test_every_50th_frame_and_the_last_are_a_line_with_frames_and_fps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Job(id="j", attempt=1, kind="sam.propagate", params=None, dir=tmp_path))
    pace = Pace("encode", report, done=20, total=120, start=0.0, share=0.4)
    seen = [report.beat()]
    for _ in range(100):
        pace.step()
        seen.append(report.beat())

    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"[\d.]+ fps", "N fps", line) for line in lines] == [f"encode: frame {frame}/120, N fps" for frame in (50, 100, 120)]
    assert [seen[0].done, seen[-1].done, seen[-1].total] == pytest.approx([40 / 6, 40.0, 100.0])
    assert all(before.done < after.done for before, after in pairwise(seen))
    assert seen[-1].metrics["frame"] == 120
