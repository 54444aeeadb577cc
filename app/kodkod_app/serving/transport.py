"""Between HTTP and the endpoints: bodies in, answers and event streams out, and clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kodkod_app.serving.faults import ApiFault, invalid

MAX_BODY_BYTES = 32 * 1024**2
CLIENT_LEFT = 499
"""Nobody reads it; for the record alone."""
_BodyT = TypeVar("_BodyT", bound=BaseModel)
_ResultT = TypeVar("_ResultT")


def json_response(body: str, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """A JSON text as an answer."""
    return Response(body, status, headers, media_type="application/json")


async def read_body(request: Request, model: type[_BodyT]) -> _BodyT:
    """The body of a request, checked.

    Only what is declared as JSON is read: a web page can make a browser send other kinds to this machine unasked.

    Raises:
        ApiFault: it is no JSON, too large, or not as it should be.
        ClientDisconnect: the client left before it had sent all.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiFault(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as application/json")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY_BYTES:
            limit = f"{MAX_BODY_BYTES // 1024**2} MiB"
            raise ApiFault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {limit}; send less")
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as fault:
        raise invalid(fault) from fault


async def while_connected(request: Request, work: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """What comes of some work, which is cancelled when the client leaves.

    Raises:
        ClientDisconnect: it left.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        await _cancelled(task, gone)


class EventStream(Response):
    """Server-sent events, one a text. The events are closed when all are sent, and when the client leaves."""

    def __init__(self, events: AsyncGenerator[str, None], close: Callable[[], object]) -> None:
        """`close` is called at the end, also where the client left before the first event was asked for."""
        self.status_code = HTTPStatus.OK
        self.media_type = "text/event-stream"
        self.background = None
        self._events = events
        self._close = close
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        del scope
        async with aclosing(self._events):
            sending, gone = asyncio.create_task(self._send(send)), asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            finally:
                self._close()
                await _cancelled(sending, gone)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
            await asyncio.sleep(0)  # where many events are ready nothing above waits, and all others would
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Wait until tasks that nobody needs any more have ended."""
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
