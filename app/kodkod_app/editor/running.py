"""The agent on this process's standard streams, which nothing else can write to."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import acp

from kodkod_app.editor.agent import KodkodAgent
from kodkod_app.editor.lines import MessageLines
from kodkod_app.interrupts import Interrupts

_MAX_MESSAGE_BYTES = 50 * 1024**2


_NO_EDITOR = "standard input and output must lead to an editor, which runs this command itself"


class NoEditor(Exception):
    """The standard streams lead to none."""

    exit_code = 2


async def run(said: Mapping[str, Any], note: Callable[[str], object], *, trusts: bool) -> None:
    """Serve one editor until it leaves. See `KodkodAgent`."""
    with Interrupts():
        reader, writer = await _private_streams()
        agent = KodkodAgent(said, note, trusts=trusts)
        try:
            await acp.run_agent(cast("acp.Agent", agent), MessageLines(reader, writer))  # what it lacks is not declared
        finally:
            await asyncio.shield(agent.close())


async def _private_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams to the editor. From now on what prints writes to standard error, and what reads finds nothing:
    one stray line, of a library or of a command, would break the protocol.
    """
    _require_waiting(0)
    own_in, own_out = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    before = sys.stdin, sys.stdout
    sys.stdin, sys.stdout = own_in, own_out  # it asks for their descriptors alone
    try:
        return await acp.stdio_streams(limit=_MAX_MESSAGE_BYTES)
    except ValueError as fault:  # a regular file is nothing to wait for
        raise NoEditor(_NO_EDITOR) from fault
    finally:
        sys.stdin, sys.stdout = before


def _require_waiting(descriptor: int) -> None:
    """/dev/null has nothing to wait for either, which asyncio learns too late to say so.

    Raises:
        NoEditor: nothing will ever come.
    """
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(descriptor, selectors.EVENT_READ)
        except OSError as fault:
            raise NoEditor(_NO_EDITOR) from fault
