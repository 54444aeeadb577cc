"""Renders a chat template that may be hostile; a program of its own, see `checkpoint_words.py`.

In: {"template": text, "values": {...}} as JSON. Out: the text. A template that fails, takes too long, too much memory
or gives too much text ends it with another code than 0. The dialect is that of transformers, for which templates are
written.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MAX_SECONDS = 3
_MAX_BYTES = 1 << 29
_MAX_CHARS = 100_000


class Generation(Extension):
    """`{% generation %}` marks, for training alone, what a model writes; what stands in it is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012  (so jinja2 types it)

    def parse(self, parser: Parser) -> nodes.Node:
        """What is between the tags, with variables of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def main() -> None:
    """Read, render, write."""
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_SECONDS, _MAX_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_BYTES, _MAX_BYTES))
    asked = json.load(sys.stdin.buffer)
    try:
        text = _rendered(asked["template"], asked["values"])
        sys.stdout.buffer.write(text.encode())
    except Exception as fault:  # noqa: BLE001  (a template can raise anything)
        sys.exit(f"{type(fault).__name__}: {fault}")


def _rendered(template: str, values: dict[str, Any]) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = _as_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    text = ""
    for part in environment.from_string(template).generate(**values):
        text += part
        if len(text) > _MAX_CHARS:
            _refuse("the text is too long")
    return text


def _as_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    """Jinja's own escapes signs of HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _refuse(reason: str) -> NoReturn:
    raise TemplateError(reason)


def _now(layout: str) -> str:
    return datetime.now().strftime(layout)


if __name__ == "__main__":
    main()
