"""The query of a request: a parameter that its route does not know is refused, so that a slip of the pen does not pass for a filter that found everything."""

from fastapi import Request
from fastapi.dependencies.models import Dependant

from supervisor.front.problems import Refusal


async def check_query(request: Request) -> None:
    """Refuse what the route does not know. Raises Refusal (422)."""
    if not request.query_params:
        return
    known = sorted(_known(request.scope["route"].dependant))
    strange = sorted(set(request.query_params) - set(known))
    if strange:
        takes = f"known are {', '.join(known)}" if known else "it takes none"
        raise Refusal(422, "invalid", f"the query parameter {strange[0][:60]!r} is unknown to this path: {takes}")


def _known(asked: Dependant) -> set[str]:
    """Return what a route takes, with what its dependencies take."""
    return {one.alias for one in asked.query_params}.union(*(_known(one) for one in asked.dependencies))
