"""A stream that tells when it has ended: the library itself finds out at the next call alone."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from mcp.client._transport import ReadStream
from mcp.shared.message import SessionMessage

Item = SessionMessage | Exception


class Watched:
    """A `ReadStream`, passed through."""

    def __init__(self, stream: ReadStream[Item], on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    async def receive(self) -> Item:
        """See `ReadStream`."""
        return await self._stream.receive()

    async def aclose(self) -> None:
        """See `ReadStream`."""
        await self._stream.aclose()

    @property
    def last_context(self) -> Any:
        """Of the sender, where the stream knows it."""
        return getattr(self._stream, "last_context", None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self._stream.__anext__()
        except StopAsyncIteration:
            self._on_end()
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(kind, fault, trace)
