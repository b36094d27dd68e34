"""A stream whose token was taken out of the file ends at its next piece, and others go on."""

from contextlib import ExitStack
from pathlib import Path

from tests.front.conftest import MakeFront
from tests.support.front import told


def test_an_open_stream_ends_once_its_token_is_good_no_longer(tmp_path: Path, make_front: MakeFront) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("stays read\ngoes read\n")
    front = make_front(token_file=str(tokens))
    with front.client() as http, ExitStack() as stack:
        headers = {name: {"Authorization": f"Bearer {name}"} for name in ("stays", "goes")}
        following = {name: told(stack.enter_context(http.stream("GET", "/v1/events?after=0", headers=headers[name]))) for name in headers}
        front.warden.publish("worker_recycled", worker="sam-0")
        assert [next(events)["id"] for events in following.values()] == ["1", "1"]

        tokens.write_text("stays read\n")
        open_still = True
        while open_still:  # the file is looked at once a second
            front.warden.publish("worker_recycled", worker="sam-0")
            heard = next(following["stays"])
            open_still = next(following["goes"], None) == heard

        assert http.get("/v1/status", headers=headers["goes"]).status_code == 401
        assert http.get("/v1/status", headers=headers["stays"]).status_code == 200
