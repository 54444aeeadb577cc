"""What a client is told when a request cannot be served: OpenAI's error object, and a status.

400  the request is not JSON, has an unknown field, a value that cannot be, or a prompt that does not fit
401  no API key, or another one
403  a host name this server does not answer to
404  no such path or model          405  not with this method
413  a body that is too large       415  a body that is not declared as JSON
500  the engine failed              503  the engine was closed
"""

from __future__ import annotations

import re
from http import HTTPStatus

from pydantic import ValidationError

from kodkod_app.serving.replies import ErrorBody, ErrorReply
from kodkod_engine.chat.surrogates import without_lone_surrogates
from kodkod_engine.errors import EngineClosed, EngineError, PromptTooLong, RequestError
from kodkod_tools.schema import in_plain_words

_MAX_MESSAGE_CHARS = 400
_KIND = re.compile(r"\[|^constrained-|^(?:str|int|float|bool)$")
"""How pydantic names one of several kinds a value may be of; no parameter is called so."""
_TAGGED = re.compile(r"^(messages\.\d+|response_format)\.\w+")
"""Where it names the kind by a word of the value, a role for one."""


class ApiFault(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def reply(self) -> ErrorReply:
        """As the client reads it: one line."""
        kind = "server_error" if self.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
        return ErrorReply(error=ErrorBody(message=_one_line(str(self)), type=kind, param=self.param, code=self.code))


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiFault:
    """A request that cannot be served as it stands."""
    return ApiFault(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def invalid(fault: ValidationError) -> ApiFault:
    """A body that is not as it should be: the error that is nearest to the cause.

    It lies deepest, and is rather about a value than about its being of another kind.
    """
    found = max(
        fault.errors(include_url=False, include_input=False),
        key=lambda error: (len(error["loc"]), not error["type"].endswith("_type")),
    )
    if found["type"] == "json_invalid":
        return bad(f"the body cannot be read: {found['msg']}", code="invalid_json")
    place, cause = _place(found["loc"]), in_plain_words(found["msg"])
    if found["type"] == "extra_forbidden":
        cause = "there is no such parameter; leave it out"
    return bad(f"{place or 'the body'}: {cause}", place or None)


def of_engine(fault: EngineError, prompt: str) -> ApiFault:
    """What the engine says, as HTTP has it. `prompt`: the parameter that it is in."""
    if isinstance(fault, PromptTooLong):
        # Clients look for these words to know that a shorter prompt would do.
        return bad(f"maximum context length exceeded: {fault}", prompt, "context_length_exceeded")
    if isinstance(fault, RequestError):
        return bad(str(fault))
    if isinstance(fault, EngineClosed):
        return ApiFault(HTTPStatus.SERVICE_UNAVAILABLE, str(fault), code="engine_closed")
    return ApiFault(HTTPStatus.INTERNAL_SERVER_ERROR, str(fault), code="engine_failed")


def _place(steps: tuple[int | str, ...]) -> str:
    """As the client wrote it: without the kinds of values that were tried there."""
    return _TAGGED.sub(r"\1", ".".join(str(step) for step in steps if not _KIND.search(str(step))))


def _one_line(text: str) -> str:
    line = " ".join(without_lone_surrogates(text).split())
    return line if len(line) <= _MAX_MESSAGE_CHARS else line[:_MAX_MESSAGE_CHARS] + "…"
