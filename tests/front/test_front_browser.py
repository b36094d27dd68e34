"""A real EventSource in a real browser: sees each frame's progress, outlives a restart of the front, misses nothing and sees nothing twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.front.conftest import MakeFront

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = Path("/usr/bin/chromium")
FRAMES = 30
WITHIN_MS = 120_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: install it with apt-get install chromium"),
]

FOLLOW = """
path => {
  window.told = [];
  window.source = new EventSource(path);
  window.source.onmessage = event => window.told.push([Number(event.lastEventId), JSON.parse(event.data)]);
}
"""


@pytest.fixture
def page() -> Iterator["Page"]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=WITHIN_MS)
        try:
            page = browser.new_page()
            page.set_default_timeout(WITHIN_MS)
            yield page
        finally:
            browser.close()


def test_an_event_source_sees_every_frame_over_a_restart_of_the_front(page: "Page", make_front: MakeFront) -> None:
    front = make_front()
    job = front.warden.submit("sam.propagate", status="running", total=float(FRAMES))
    page.goto(f"{front.url}/healthz")
    page.evaluate(FOLLOW, f"/v1/jobs/{job}/events")
    for frame in range(1, FRAMES // 2 + 1):
        front.warden.change(job, done=float(frame))
    page.wait_for_function(f"window.told.length >= {FRAMES // 2 + 1}")

    front.end(kill=True)
    for frame in range(FRAMES // 2 + 1, FRAMES):
        front.warden.change(job, done=float(frame))
    front.start().ready()
    front.warden.change(job, done=float(FRAMES))
    front.warden.change(job, "job_completed", status="completed")
    page.wait_for_function("window.source.readyState === EventSource.CLOSED")  # by the 204 after the end

    told = page.evaluate("window.told")
    assert [number for number, _ in told] == list(range(1, FRAMES + 3))
    assert [event["data"]["done"] for _, event in told if event["event"] == "job_moved"] == [float(frame) for frame in range(1, FRAMES + 1)]
    assert told[-1][1]["data"]["status"] == "completed"
