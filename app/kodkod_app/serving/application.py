"""The application: paths to endpoints, keys and hosts checked before, faults told as OpenAI tells them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kodkod_app.serving.chat import Chat
from kodkod_app.serving.completions import Completion
from kodkod_app.serving.document import document
from kodkod_app.serving.faults import ApiFault, of_engine
from kodkod_app.serving.replies import HealthReply, ModelReply, ModelsReply
from kodkod_app.serving.requests import ChatRequest, CompletionRequest, Sampled
from kodkod_app.serving.service import Service
from kodkod_app.serving.transport import CLIENT_LEFT, EventStream, json_response, read_body, while_connected
from kodkod_engine.errors import EngineClosed

DONE = "[DONE]"
OPEN_PATHS = ("/health", "/openapi.json")
"""Answered without a key."""
_RequestT = TypeVar("_RequestT", bound=Sampled)


@dataclass(frozen=True, slots=True)
class Access:
    """Who is answered."""

    api_key: str | None = None
    hosts: frozenset[str] | None = None
    """Names this server answers to; None for any. A page whose own name leads to this machine has another one."""


def application(service: Service, access: Access | None = None) -> Starlette:
    """The application that serves a model."""
    access = access or Access()
    routes = [
        Route("/v1/chat/completions", _answering(service, ChatRequest, Chat.begin), methods=["POST"]),
        Route("/v1/completions", _answering(service, CompletionRequest, Completion.begin), methods=["POST"]),
        Route("/v1/models", _models(service), methods=["GET"]),
        Route("/v1/models/{model:path}", _model(service), methods=["GET"]),
        Route("/health", _health(service), methods=["GET"]),
        Route("/openapi.json", _document(service, keyed=access.api_key is not None), methods=["GET"]),
    ]
    handlers = {ApiFault: _tell_fault, HTTPException: _tell_http, ClientDisconnect: _tell_nobody, Exception: _tell_bug}
    return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(Gate, access=access)])


def _answering(
    service: Service, model: type[_RequestT], begin: Callable[[Service, _RequestT], Awaitable[Chat | Completion]]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        body = await read_body(request, model)
        _require_model(service, body.model)
        begun = await begin(service, body)
        if body.stream:
            return EventStream(_events(begun), begun.close)
        try:
            return json_response((await while_connected(request, begun.whole())).json_text())
        finally:
            begun.close()

    return endpoint


async def _events(begun: Chat | Completion) -> AsyncGenerator[str, None]:
    try:
        async with aclosing(begun.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk.json_text()
        yield DONE
    except ApiFault as fault:
        yield fault.reply().json_text()


def _require_model(service: Service, name: str) -> None:
    if name != service.name:
        message = f"the model {name[:80]!r} is not served here; ask for {service.name!r}"
        raise ApiFault(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")


def _models(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        return json_response(ModelsReply(object="list", data=[_described(service)]).json_text())

    return endpoint


def _model(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        _require_model(service, request.path_params["model"])
        return json_response(_described(service).json_text())

    return endpoint


def _described(service: Service) -> ModelReply:
    return ModelReply(
        id=service.name,
        object="model",
        created=service.began_at,
        owned_by="kodkod",
        max_model_len=service.engine.max_context_tokens,
    )


def _health(service: Service) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(_: Request) -> Response:
        counts = service.engine.stats()
        if counts.fault:
            raise of_engine(EngineClosed(counts.fault), "")
        health = HealthReply(
            status="ok",
            running=counts.running,
            waiting=counts.waiting,
            prompt_tokens=counts.prompt_tokens,
            reused_tokens=counts.reused_tokens,
            generated_tokens=counts.generated_tokens,
        )
        return json_response(health.json_text())

    return endpoint


def _document(service: Service, *, keyed: bool) -> Callable[[Request], Awaitable[Response]]:
    text = document(service.name, keyed=keyed)

    async def endpoint(_: Request) -> Response:
        return json_response(text)

    return endpoint


async def _tell_fault(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, ApiFault)
    return json_response(fault.reply().json_text(), fault.status)


async def _tell_http(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    told = ApiFault(fault.status_code, f"{HTTPStatus(fault.status_code).phrase}; /openapi.json lists what there is")
    return json_response(told.reply().json_text(), fault.status_code, dict(fault.headers or {}))


async def _tell_nobody(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _tell_bug(_: Request, fault: Exception) -> Response:
    told = ApiFault(
        HTTPStatus.INTERNAL_SERVER_ERROR, f"the server failed ({type(fault).__name__}); it says more itself"
    )
    return json_response(told.reply().json_text(), told.status)


class Gate:
    """Lets requests through that come by one of this server's names and, where a key is needed, bring it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        refused = self._refused(scope) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
            return
        headers = {"www-authenticate": "Bearer"} if refused.status == HTTPStatus.UNAUTHORIZED else None
        await json_response(refused.reply().json_text(), refused.status, headers)(scope, receive, send)

    def _refused(self, scope: Scope) -> ApiFault | None:
        headers = Headers(scope=scope)
        if self._access.hosts is not None and _host_name(headers.get("host", "")) not in self._access.hosts:
            return ApiFault(HTTPStatus.FORBIDDEN, "this server does not answer to that host name; use its address")
        if self._access.api_key is None or scope["path"] in OPEN_PATHS:
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(key.encode("latin-1"), self._access.api_key.encode()):
            return None
        return ApiFault(HTTPStatus.UNAUTHORIZED, "the API key is missing or not right", code="invalid_api_key")


def _host_name(host: str) -> str:
    """Without the port."""
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[").lower()
    return host.partition(":")[0].lower()
