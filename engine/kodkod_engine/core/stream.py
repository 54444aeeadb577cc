"""The stream a request is answered on: written by the engine thread, read by one asyncio task."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

from kodkod_engine.api import TokenChunk


class ThreadedStream:
    """See `api.TokenStream`. `put` may be called from any thread."""

    def __init__(self, stream_id: str, on_cancel: Callable[[str], None]) -> None:
        self._id = stream_id
        self._on_cancel = on_cancel
        self._chunks: deque[TokenChunk] = deque()
        self._lock = threading.Lock()
        self._wake_reader: Callable[[], object] | None = None
        self._is_ended = False

    @property
    def id(self) -> str:
        """See `api.TokenStream`."""
        return self._id

    @property
    def is_ended(self) -> bool:
        """Whether the last chunk has been put."""
        return self._is_ended

    def cancel(self) -> None:
        """See `api.TokenStream`."""
        if not self._is_ended:
            self._on_cancel(self._id)

    def put(self, chunk: TokenChunk, *, wakes: bool = True) -> None:
        """Hand a chunk to the reader; ignored after the last one. `wakes`: a reader who waits is told now."""
        with self._lock:
            if self._is_ended:
                return
            self._chunks.append(chunk)
            self._is_ended = chunk.finish_reason is not None
        if wakes:
            self.wake()

    def wake(self) -> None:
        """Tell a reader who waits of what was put. It runs from then on, and whoever calls may have to wait for it."""
        with self._lock:
            if not self._chunks:
                return
            wake, self._wake_reader = self._wake_reader, None
        if wake is not None:
            # A reader whose event loop is closed has gone; its request ends like any other.
            with suppress(RuntimeError):
                wake()

    async def __aiter__(self) -> AsyncIterator[TokenChunk]:
        """See `api.TokenStream`. A reader that leaves before the end cancels the request."""
        try:
            while (chunk := await self._next()) is not None:
                yield chunk
        finally:
            self.cancel()

    async def _next(self) -> TokenChunk | None:
        """None after the last chunk."""
        while True:
            arrived = asyncio.Event()
            with self._lock:
                if self._chunks:
                    return self._chunks.popleft()
                if self._is_ended:
                    return None
                self._wake_reader = partial(asyncio.get_running_loop().call_soon_threadsafe, arrived.set)
            await arrived.wait()
