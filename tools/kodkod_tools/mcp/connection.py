"""One MCP server: started, asked what it offers, called, and watched, in a task of its own.

    starting ──► ready ──► ended (its fault says why)
        ▲  └───────────────►  │
        └──── restart ◄───────┘

A server that has ended stays so until a person starts it again: whether a call that was under way was carried out is
not known, and behind the person's back what it held would be forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp_types import (
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    InputRequiredResult,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from kodkod_tools.base import ErrorCode, ToolError
from kodkod_tools.mcp.config import McpServer
from kodkod_tools.mcp.definitions import MAX_TOOLS, Offered
from kodkod_tools.mcp.watched import Watched
from kodkod_tools.text.cleaned import cleaned, one_line

_ANSWER: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)
_CONNECTION_CLOSED = -32000
_TIMED_OUT = (-32001, 408)
_MAX_PAGES = 10
_STDERR_BYTES = 2_000
_CLOSE_TIMEOUT_S = 10.0
_RELIST_PAUSE_S = 0.2
"""A server that announces changes without end is asked no oftener."""
_FAULTS = (
    OSError,
    ValueError,
    RuntimeError,
    MCPError,
    ValidationError,
    httpx2.HTTPError,
    TimeoutError,
    SubscriptionLost,
)


class Connection:
    """See the module. Belongs to one asyncio loop."""

    def __init__(self, name: str, server: McpServer, work_tree: Path, log: Path, on_change: Callable[[], None]) -> None:
        """Nothing is started yet.

        Args:
            name: of its entry.
            server: with variables filled in.
            work_tree: where a program is started.
            log: file that takes what a program says on standard error.
            on_change: called after what it offers, or that it has ended, is known.
        """
        self.name = name
        self.fault = ""
        """Why it has ended, in one line."""
        self.offered: tuple[Offered, ...] = ()
        self._server, self._work_tree, self._log, self._on_change = server, work_tree, log, on_change
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._restarting = asyncio.Lock()
        self._settled = asyncio.Event()
        self._stale = asyncio.Event()
        self._closing = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether it can be called."""
        return self._client is not None

    def start(self) -> None:
        """Begin; `settled` waits."""
        self._task = asyncio.create_task(self._serve(), name=f"mcp-{self.name}")

    async def settled(self) -> None:
        """Wait until it is ready or has ended; no longer than its own limit."""
        await self._settled.wait()

    async def close(self) -> None:
        """End it. Idempotent."""
        self._closing.set()
        if self._task is not None:
            if self._settled.is_set():
                await asyncio.wait({self._task}, timeout=_CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.wait({self._task})

    async def restart(self) -> None:
        """End it where it goes on, begin anew, and wait until it is ready or has ended; its fault says which."""
        async with self._restarting:
            await self.close()
            self.fault = ""
            for event in (self._settled, self._stale, self._closing):
                event.clear()
            self.start()
            await self.settled()

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Call a tool by the server's own name for it.

        Raises:
            ToolError: the server has ended, refused, answered nonsense, or took too long.
        """
        client = self._client
        if client is None:
            raise ToolError(ErrorCode.UNAVAILABLE, self._told_end())
        # Not the client's own `call_tool`: that one obeys the schema a server gives for its answers, costly or not.
        request = CallToolRequest(params=CallToolRequestParams(name=tool, arguments=dict(arguments)))
        try:
            answer = await client.session.send_request(
                request, _ANSWER, request_read_timeout_seconds=self._server.call_timeout_s
            )
        except MCPError as fault:
            raise self._call_fault(fault, client) from fault
        except _FAULTS as fault:
            raise ToolError(ErrorCode.FAILED, f"the MCP server {self.name}: {_told(fault)}") from fault
        if isinstance(answer, InputRequiredResult):
            raise ToolError(
                ErrorCode.FAILED, f"the MCP server {self.name} asks the user for more; that is not answered"
            )
        return answer

    def _call_fault(self, fault: MCPError, client: Client) -> ToolError:
        if fault.code == _CONNECTION_CLOSED:
            # Where it is started again, this one was ended on purpose, or another has taken its place already.
            if self._client is client and not self._closing.is_set():
                self._end(self._cause(fault))
            return ToolError(ErrorCode.UNAVAILABLE, f"{self._told_end()}; whether it did the call is not known")
        if fault.code in _TIMED_OUT:
            told = f"the MCP server {self.name} did not answer within {self._server.call_timeout_s:g} s"
            return ToolError(ErrorCode.TIMEOUT, f"{told}; it may still do it")
        return ToolError(ErrorCode.FAILED, f"the MCP server {self.name} refused: {_told(fault)}")

    def _told_end(self) -> str:
        return f"the MCP server {self.name} {self.fault or 'is not ready yet'}"

    async def _serve(self) -> None:
        _be_quiet()
        try:
            async with asyncio.timeout(self._server.start_timeout_s) as limit, AsyncExitStack() as stack:
                await self._open(stack)
                limit.reschedule(None)
                await self._watch()
        except TimeoutError:
            self._end(f"was not ready within {self._server.start_timeout_s:g} s{self._last_words()}")
        except Exception as fault:  # noqa: BLE001  # a stranger's program and its transport: whatever fails ends it alone
            self._end(self._cause(fault))
        finally:
            self._client = None
            self._settled.set()

    async def _open(self, stack: AsyncExitStack) -> None:
        client = Client(
            self._transport(),
            read_timeout_seconds=self._server.start_timeout_s,
            message_handler=self._hear,
            client_info=Implementation(name="kodkod", version="0"),
            cache=None,
        )
        await stack.enter_async_context(client)
        self.offered = await _list(client)
        self._client = client
        self._settled.set()
        self._on_change()

    async def _watch(self) -> None:
        """Ask again whenever what it offers has changed, until it is closed or has ended."""
        listening = asyncio.create_task(self._listen())
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not self._closing.is_set() and not self.fault:
                stale = asyncio.create_task(self._stale.wait())
                await asyncio.wait({stale, closing}, return_when=asyncio.FIRST_COMPLETED)
                stale.cancel()
                if self._closing.is_set() or self.fault or self._client is None:
                    return
                self._stale.clear()
                self.offered = await _list(self._client)
                self._on_change()
                await asyncio.sleep(_RELIST_PAUSE_S)
        finally:
            for task in (listening, closing):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _listen(self) -> None:
        """Newer servers tell of changes to those who subscribe; older ones send a notification, see `_hear`."""
        client = self._client
        if client is None or client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return
        with suppress(ListenNotSupportedError, *_FAULTS):
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._stale.set()

    async def _hear(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._stale.set()

    def _end(self, cause: str) -> None:
        if self.fault:
            return
        self.fault = cause
        self._client = None
        self._stale.set()
        self._on_change()

    def _cause(self, fault: BaseException) -> str:
        while isinstance(fault, BaseExceptionGroup):
            fault = fault.exceptions[0]
        is_closed = isinstance(fault, MCPError) and fault.code == _CONNECTION_CLOSED
        told = "has ended" if is_closed else f"has failed: {_told(fault)}"
        return f"{told}{self._last_words()}"

    def _last_words(self) -> str:
        """The last line a program wrote on standard error."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _STDERR_BYTES))
                lines = cleaned(log.read(_STDERR_BYTES).decode("utf-8", "replace")).split("\n")
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" ({one_line(last)})" if last else ""

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Any]:
        server = self._server
        async with AsyncExitStack() as stack:
            if server.url is not None:
                client = httpx2.AsyncClient(
                    headers=server.headers, timeout=httpx2.Timeout(server.start_timeout_s, read=server.call_timeout_s)
                )
                await stack.enter_async_context(client)
                yield await stack.enter_async_context(streamable_http_client(server.url, http_client=client))
                return
            assert server.command is not None
            self._log.parent.mkdir(parents=True, exist_ok=True)
            told = stack.enter_context(self._log.open("w", encoding="utf-8"))
            started = StdioServerParameters(
                command=server.command,
                args=list(server.args),
                env=server.env,
                cwd=self._work_tree / (server.cwd or "."),
                encoding_error_handler="replace",
            )
            reading, writing = await stack.enter_async_context(stdio_client(started, errlog=told))
            yield Watched(reading, self._on_end), writing

    def _on_end(self) -> None:
        if self.is_ready and not self._closing.is_set():
            self._end(f"has ended{self._last_words()}")


async def _list(client: Client) -> tuple[Offered, ...]:
    """What it offers: pages until there are more tools than are taken."""
    found: list[Offered] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        found += (Offered(tool.name, tool.description or "", tool.input_schema) for tool in page.tools)
        cursor = page.next_cursor
        if cursor is None or len(found) > MAX_TOOLS:
            break
    return tuple(found[: MAX_TOOLS + 1])


def _told(fault: BaseException) -> str:
    """A fault in a line; one without words by its kind."""
    return one_line(fault) or type(fault).__name__


def _be_quiet() -> None:
    """The library tells of faults by logging too; unheard, its lines would be written over a screen."""
    for name in ("mcp", "client", "httpx2"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
