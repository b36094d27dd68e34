"""A problem says truly whether the same request may be sent again: `retryable` and Retry-After are there together or not at all."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.control import Problem, Refused, Unreachable
from supervisor.front.problems import CODES, RETRY_AFTER_S, Refusal, of_supervisor, response
from supervisor.runtime.job_operations import JobOperations
from supervisor.runtime.requests import Rejected


def said(refusal: Refusal) -> tuple[bool, bool]:
    """Return whether it says that it is retryable, and whether it says when."""
    answer = response(refusal)
    return json.loads(bytes(answer.body))["retryable"], "retry-after" in answer.headers


@pytest.mark.parametrize("code", sorted(CODES))
def test_each_no_of_the_supervisor_agrees_with_itself(code: str) -> None:
    retryable, when = said(of_supervisor(Refused(Problem(code=code, message="no"))))

    assert retryable == when == (CODES[code] in RETRY_AFTER_S)


def test_a_key_that_is_being_taken_may_be_sent_again_and_so_may_what_comes_too_early_or_finds_no_room() -> None:
    nothing: Any = None
    operations = JobOperations(
        fleet=nothing, limits=nothing, asking=SimpleNamespace(ask=nothing), store=nothing, files=nothing, kinds=nothing  # type: ignore[arg-type]
    )  # fmt: skip
    with pytest.raises(Rejected) as found, operations._alone("k"), operations._alone("k"):
        pass
    taken = Refused(Problem(code=found.value.code, message=found.value.message))

    answers = [of_supervisor(taken), Refusal(404, "not_yet", "", retry_after_s=1), Refusal(507, "full", ""), of_supervisor(Unreachable("away"))]

    assert [one.status for one in answers] == [409, 404, 507, 503]
    assert [said(one) for one in answers] == [(True, True)] * 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 415, 422])
def test_what_needs_something_changed_first_is_not_retryable(status: int) -> None:
    assert said(Refusal(status, "word", "")) == (False, False)
