"""A route that calls its endpoint itself gives it all it takes, or is refused at the start."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, Request, Response
from pydantic import BaseModel

from entrypoints.http.direct_route import DirectRoute


class Body(BaseModel):
    text: str


async def _of_the_request(request: Request) -> str:
    return request.method


async def _of_more(request: Request, page: int) -> str:
    return request.method * page


async def takes_a_body_the_request_and_what_it_needs(
    body: Body, request: Request, need: Annotated[str, Depends(_of_the_request)]
) -> Response:
    return Response(body.text + need)


async def takes_a_part_of_the_query(body: Body, request: Request, page: int) -> Response:
    return Response()


async def takes_the_response(body: Body, request: Request, response: Response) -> Response:
    return Response()


async def needs_more_than_the_request(
    body: Body, request: Request, need: Annotated[str, Depends(_of_more)]
) -> Response:
    return Response()


def route_to(endpoint: Any) -> DirectRoute:
    return DirectRoute("/", endpoint, methods=["POST"], response_class=Response, response_model=None)


def test_an_endpoint_that_takes_what_it_is_given_is_served() -> None:
    assert route_to(takes_a_body_the_request_and_what_it_needs).methods == {"POST"}


@pytest.mark.parametrize("endpoint", [takes_a_part_of_the_query, takes_the_response, needs_more_than_the_request])
def test_an_endpoint_that_takes_anything_else_is_refused_at_the_start(endpoint: Any) -> None:
    with pytest.raises(AssertionError):
        route_to(endpoint)
