"""The engine's thread, whatever computes in it: take commands, step, hand out; again.

    callers ── Submit, Cancel, Stop ──► one queue ──► the thread ──► streams

Nothing else crosses. What is computed with, and how, is for those who inherit: our own scheduler and runner
(`core.loop`), or vLLM's engine (`backends.vllm_loop`).
"""

from __future__ import annotations

import atexit
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

from kodkod_engine.api import EngineStats, FinishReason
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.errors import DeviceLost, EngineClosed, EngineError

logger = logging.getLogger(__name__)

CLOSED = "the engine is closed; load it again"
FORKED = "the engine computes in another process, of which this one is a fork; load it here too"


@dataclass(frozen=True, slots=True)
class Submit:
    """A new request, with the place its answer goes to."""

    sequence: Sequence
    answer: Answer


@dataclass(frozen=True, slots=True)
class Cancel:
    """A stream whose reader wants no more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The end."""


Command: TypeAlias = Submit | Cancel | Stop


class EngineThread(ABC):
    """See the module. The methods below the line are called by the thread alone."""

    def __init__(self, stats: EngineStats) -> None:
        """Nothing runs before `_start`, which those who inherit call when all of theirs stands."""
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stats = stats
        self._is_closed = False
        self._death: BaseException | None = None
        self._closing = threading.Lock()
        # A daemon, so that an interpreter that ends without close() does not wait for it before it runs exit handlers.
        # It must be gone when they are done: a thread that the interpreter stops inside a kernel aborts the process.
        self._thread = threading.Thread(target=self._work, name="kodkod-engine", daemon=True)

    def _start(self) -> None:
        self._thread.start()
        atexit.register(self.close)

    @property
    def stats(self) -> EngineStats:
        """As of the end of the last step."""
        death = self._death
        return self._stats if death is None else replace(self._stats, fault=_last_words(death))

    def submit(self, sequence: Sequence, answer: Answer) -> None:
        """Queue a request. Raises EngineClosed after `close`, when the thread died, and in a fork of its process."""
        with self._closing:
            if self._death is not None:
                raise EngineClosed(_last_words(self._death)) from self._death
            if self._is_closed:
                raise EngineClosed(CLOSED)
            if not self._thread.is_alive():
                raise EngineClosed(FORKED)
            self._commands.put(Submit(sequence, answer))

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; unknown or ended ones are left alone."""
        self._commands.put(Cancel(request_id))

    def close(self) -> None:
        """Cancel everything and wait for the thread to end."""
        with self._closing:
            self._is_closed = True
            self._commands.put(Stop())
        if self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.close)

    # ---

    @property
    @abstractmethod
    def _has_work(self) -> bool:
        """There is something to compute."""

    @property
    @abstractmethod
    def _open_ids(self) -> Collection[str]:
        """Of the requests that have not ended."""

    @abstractmethod
    def _admit(self, sequence: Sequence, answer: Answer) -> None:
        """Take a request on."""

    @abstractmethod
    def _end(self, request_id: str, reason: FinishReason, error: str | None = None) -> None:
        """End a request and tell its reader why; one that is not there is left alone."""

    @abstractmethod
    def _step(self) -> None:
        """Compute once, for as many requests as there is room for, and tell their readers.

        Raises:
            DeviceLost: no step will ever work again.
            EngineClosed: it was broken off, for the engine is being closed.
        """

    @abstractmethod
    def _fail_step(self, cause: str) -> None:
        """A step was broken off: end the requests that were in it, and trust nothing that it left behind."""

    @abstractmethod
    def _publish_stats(self) -> None:
        """Bring `stats` up to date."""

    @abstractmethod
    def _let_go(self) -> None:
        """Drop the model and its cache, whoever still holds this object."""

    def _work(self) -> None:
        try:
            while self._take_commands():
                try:
                    self._step()
                except DeviceLost:
                    raise
                except EngineClosed:
                    continue  # what was asked for next is to stop
                except EngineError as fault:
                    self._fail_step(str(fault))  # which tells every reader; a log would only say it again
                except Exception as fault:
                    # The outermost edge of the engine: whatever broke, every reader is told and the engine goes on.
                    logger.exception("a step failed")
                    self._fail_step(f"the engine failed in a step ({one_line(fault)}); it goes on, so ask again")
                self._publish_stats()
        except DeviceLost as fault:
            logger.error("%s", fault)  # noqa: TRY400  # one line says it all
            self._death = fault
        except BaseException as fault:
            self._death = fault
            raise
        finally:
            self._leave()

    def _take_commands(self) -> bool:
        """Do what has been asked since the last step; wait when there is nothing to compute. False means stop."""
        while True:
            try:
                command = self._commands.get(block=not self._has_work)
            except queue.Empty:
                return True
            match command:
                case Submit(sequence, answer):
                    self._admit(sequence, answer)
                case Cancel(request_id):
                    self._end(request_id, FinishReason.CANCELLED)
                case Stop():
                    return False
            self._publish_stats()

    def _leave(self) -> None:
        """Tell every reader that the end has come: asked for, or by the death of the thread."""
        with self._closing:
            self._is_closed = True
        reason, cause = FinishReason.CANCELLED, None
        if self._death is not None:
            reason, cause = FinishReason.ERROR, _last_words(self._death)
        while not self._commands.empty():
            match self._commands.get():
                case Submit(sequence, answer):
                    answer.end(reason, sequence, cause)
        for request_id in list(self._open_ids):
            try:
                self._end(request_id, reason, cause)
            except Exception:  # the next reader is to be told all the same
                logger.exception("a request failed to end")
        self._publish_stats()
        self._let_go()


def _last_words(death: BaseException) -> str:
    return str(death) if isinstance(death, DeviceLost) else f"the engine thread died ({one_line(death)}); load it again"


def one_line(fault: BaseException) -> str:
    """A fault and its kind in a line."""
    return " ".join(f"{type(fault).__name__}: {fault}".split())
