"""Messages to and from an editor, one JSON object a line; what is no message is answered as such."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from acp import RequestError


class MessageLines:
    """See `acp.connection.Connection`, which takes this for the way to the editor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The reader's limit is the longest message there may be."""
        self._reader = reader
        self._writer = writer

    async def send(self, message: dict[str, Any]) -> None:
        """One message.

        Raises:
            ConnectionError: the editor reads no more.
        """
        self._writer.write((json.dumps(message, separators=(",", ":")) + "\n").encode())
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when the editor has left."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                await self._refuse(RequestError(-32600, "a message is longer than any may be"))
                continue
            if not line:
                return None
            if line.strip() and (message := await self._read(line)) is not None:
                return message

    async def close(self) -> None:
        """Everything that was sent has been written: there is nothing to wait for."""

    async def _read(self, line: bytes) -> dict[str, Any] | None:
        """The message in a line; None where there is none, which the editor has been told then."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            await self._refuse(RequestError(-32700, "a line is no JSON"))
            return None
        if not _is_message(message):
            await self._refuse(RequestError(-32600, "a line is no message: an object with a method, or with an id"))
            return None
        found: dict[str, Any] = message
        return found

    async def _refuse(self, fault: RequestError) -> None:
        await self.send({"jsonrpc": "2.0", "id": None, "error": fault.to_error_obj()})


def _is_message(found: object) -> bool:
    """Whether it is a request, a notification, or an answer."""
    if not isinstance(found, dict):
        return False
    return isinstance(found.get("method", ""), str) and isinstance(found.get("id"), str | int | float | None)
