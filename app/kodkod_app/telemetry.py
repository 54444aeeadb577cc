"""Spans of runs, turns and calls, after OpenTelemetry's conventions for generative AI. Off unless it is asked for.

    [telemetry]
    exporter = "file"

Nothing is sent anywhere but where the person says: to a file of theirs, or to a collector at the address that
`OTEL_EXPORTER_OTLP_ENDPOINT` names. What was said and done is left out unless `content` asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, ConfigDict

from kodkod_agent.spans import NoSpans, Spans
from kodkod_app import paths

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter


class TelemetryMissing(Exception):
    """What the settings need is not there: a package, or a file that can be written."""

    exit_code = 2


class Exporter(StrEnum):
    """Where spans go."""

    OFF = "off"
    FILE = "file"
    """One JSON object a line."""
    OTLP = "otlp"
    """A collector; the usual variables of OpenTelemetry say where."""


class TelemetryConfig(BaseModel):
    """See the module."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exporter: Exporter = Exporter.OFF
    """Where spans of runs, turns and calls go."""
    file: Path | None = None
    """Of the exporter `file`. [default: spans.jsonl beside the sessions]"""
    content: bool = False
    """Tell what was said, called and answered too, and not its size alone."""


_OTLP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_SDK_NEEDED = ("opentelemetry.sdk.trace", "pip install 'kodkod[telemetry]'")
_NEEDED: Mapping[Exporter, tuple[tuple[str, str], ...]] = {
    Exporter.OFF: (),
    Exporter.FILE: (_SDK_NEEDED,),
    Exporter.OTLP: (_SDK_NEEDED, (_OTLP, "pip install opentelemetry-exporter-otlp-proto-http")),
}
"""Modules, and how to get each."""


@contextmanager
def open_spans(config: TelemetryConfig, model: str) -> Iterator[Spans]:
    """What a session tells its spans to; they are all written when it is left.

    Args:
        config: the settings.
        model: name of the checkpoint.

    Raises:
        TelemetryMissing: a package is not installed, or the file cannot be written.
    """
    if config.exporter is Exporter.OFF:
        yield NoSpans()
        return
    require_telemetry(config)
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if config.exporter is Exporter.OTLP:
        with spans_to(BatchSpanProcessor(_collector()), model, content=config.content) as spans:
            yield spans
        return
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    with _opened(config) as file:
        exporter = ConsoleSpanExporter(out=file, formatter=lambda span: f"{span.to_json(indent=None)}\n")
        with spans_to(BatchSpanProcessor(exporter), model, content=config.content) as spans:
            yield spans


def _opened(config: TelemetryConfig) -> TextIO:
    path = paths.sessions_folder().parent / "spans.jsonl" if config.file is None else paths.expanded(config.file)
    try:
        return open(path, "a", encoding="utf-8", opener=_own)  # what is said may be in it
    except OSError as fault:
        raise TelemetryMissing(f"{path} cannot be written ({fault.strerror}); name another telemetry.file") from fault


def _own(path: str, flags: int) -> int:
    """Where it is new, nobody else may read it."""
    return os.open(path, flags, 0o600)


def require_telemetry(config: TelemetryConfig) -> None:
    """Before anything slow is begun.

    Raises:
        TelemetryMissing: a package is not installed, or the file cannot be written.
    """
    for package, how in _NEEDED[config.exporter]:
        if not _is_installed(package):
            raise TelemetryMissing(f"telemetry needs a package: {how}; or set telemetry.exporter = off")
    if config.exporter is Exporter.FILE:
        _opened(config).close()


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor what it is part of
        return False


def _collector() -> SpanExporter:
    trace_exporter = importlib.import_module(_OTLP)
    exporter: SpanExporter = trace_exporter.OTLPSpanExporter()
    return exporter


@contextmanager
def spans_to(processor: SpanProcessor, model: str, *, content: bool = False) -> Iterator[Spans]:
    """Spans for this processor alone: no other library's in this process are among them."""
    from importlib.metadata import version

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from kodkod_app.otel_spans import OtelSpans

    resource = Resource.create({"service.name": "kodkod", "service.version": version("kodkod")})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    try:
        yield OtelSpans(provider.get_tracer("kodkod", version("kodkod")), model, content=content)
    finally:
        provider.shutdown()
