"""The OpenAPI document, made from the very models that requests are read with and answers are written with."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kodkod_app.serving import replies, requests

_Mode = Literal["validation", "serialization"]
_MODELS: tuple[tuple[type[BaseModel], _Mode], ...] = (
    (requests.ChatRequest, "validation"),
    (requests.CompletionRequest, "validation"),
    (replies.ChatReply, "serialization"),
    (replies.ChatChunk, "serialization"),
    (replies.CompletionReply, "serialization"),
    (replies.ModelsReply, "serialization"),
    (replies.ModelReply, "serialization"),
    (replies.HealthReply, "serialization"),
    (replies.ErrorReply, "serialization"),
)
_ERRORS = {
    "400": "The request cannot be served as it stands.",
    "401": "The API key is missing or not right.",
    "403": "The server does not answer to this host name.",
    "404": "There is no such model.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "500": "The engine failed.",
    "503": "The server is closing, or its engine has ended.",
}
_ON_GET = ("401", "403", "404", "503")


def document(name: str, *, keyed: bool) -> str:
    """As JSON.

    Args:
        name: of the model, the only one that can be asked for.
        keyed: whether an API key is needed.
    """
    _, found = models_json_schema(_MODELS, ref_template="#/components/schemas/{model}")
    schemas = found["$defs"]
    for body in ("ChatRequest", "CompletionRequest"):
        schemas[body]["properties"]["model"]["const"] = name
    components: dict[str, Any] = {"schemas": schemas}
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "kodkod", "version": version("kodkod"), "description": "One model, OpenAI's API."},
        "paths": _paths(name, keyed=keyed),
        "components": components,
    }
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return json.dumps(whole)


def _paths(name: str, *, keyed: bool) -> dict[str, Any]:
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "const": name}}
    guarded: dict[str, Any] = {"security": [{"key": []}]} if keyed else {}
    return {
        "/v1/chat/completions": {"post": {**_post("chat", "ChatRequest", "ChatReply", "ChatChunk"), **guarded}},
        "/v1/completions": {
            "post": {**_post("completion", "CompletionRequest", "CompletionReply", "CompletionReply"), **guarded}
        },
        "/v1/models": {"get": {**_get("models", "ModelsReply"), **guarded}},
        "/v1/models/{model}": {"get": {**_get("model", "ModelReply"), "parameters": [model], **guarded}},
        "/health": {"get": _get("health", "HealthReply")},
    }


def _post(name: str, body: str, whole: str, chunk: str) -> dict[str, Any]:
    chunks = {"contentMediaType": "application/json", "contentSchema": {"$ref": f"#/components/schemas/{chunk}"}}
    event = {
        "description": f"With `stream`: events that each hold a {chunk} or an ErrorReply, and `[DONE]` last.",
        "type": "object",
        "properties": {"data": {"type": "string", "anyOf": [chunks, {"const": "[DONE]"}]}},
        "required": ["data"],
    }
    content = {**_json(whole)["content"], "text/event-stream": {"schema": event}}
    return {
        "operationId": name,
        "requestBody": {"required": True, **_json(body)},
        "responses": {"200": {"description": "What was generated.", "content": content}, **_errors(*_ERRORS)},
    }


def _get(name: str, reply: str) -> dict[str, Any]:
    answer = {"description": "As it is now.", **_json(reply)}
    return {"operationId": name, "responses": {"200": answer, **_errors(*_ON_GET)}}


def _errors(*statuses: str) -> dict[str, Any]:
    return {status: {"description": _ERRORS[status], **_json("ErrorReply")} for status in statuses}


def _json(schema: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}
