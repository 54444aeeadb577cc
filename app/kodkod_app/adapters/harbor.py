"""Harbor: kodkod's engine as an agent of theirs, its commands run in the environment Harbor made.

    harbor run --path TASKS --agent-import-path kodkod_app.adapters.harbor:KodkodAgent

The class is made when it is asked for, for its base is Harbor's. Which model: KODKOD_MODEL, or the bundled one.
Task directories of Harbor can be done without it, in boxes of ours: `kodkod eval TASK_DIRECTORY`.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kodkod_agent.model_turn import run_turn
from kodkod_app.adapters.asking import sampling_of, shared_model
from kodkod_app.bootstrap import Model
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.errors import PromptTooLong
from kodkod_engine.messages import ToolCall, ToolMessage, ToolSpec
from kodkod_tools.text.truncate import cut_middle

_SYSTEM = """\
You solve a task in a Linux environment by shell commands. Look before you change things, check what you did, and when \
the task is done, say so without calling anything."""
SHELL = ToolSpec(
    name="shell",
    description="Run a command by bash; its exit code and output come back.",
    parameters={
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "timeout_s": {"type": "integer", "description": "Default: 120"},
        },
        "required": ["command"],
    },
)
_TIMEOUT_S = 120
_MAX_TURNS = 100
_MAX_CHARS = 12_000


class Commands:
    """What makes an agent of Harbor ours; Harbor's own base class comes behind it."""

    logs_dir: Path
    kodkod_model: Model | None = None

    @staticmethod
    def name() -> str:
        """As Harbor lists it."""
        return "kodkod"

    def version(self) -> str:
        """Of kodkod."""
        return version("kodkod")

    async def setup(self, environment: Any) -> None:
        """Nothing is installed in the environment: the model is here."""

    async def run(self, instruction: str, environment: Any, context: Any) -> None:
        """Do the task; what it costs is in the context after each turn, so that a time-out loses nothing.

        Raises:
            EngineError: the engine failed.
        """
        model = self.kodkod_model or shared_model()
        ledger = TokenLedger.open(model.tokenizer, [SHELL], _SYSTEM)
        ledger.append_user(instruction)
        parent_id = None
        for _ in range(_MAX_TURNS):
            try:
                turn = await run_turn(model.engine, ledger, sampling_of(None), lambda _: None, parent_id=parent_id)
            except PromptTooLong:
                break
            parent_id = turn.stream_id
            context.n_input_tokens = (context.n_input_tokens or 0) + turn.usage.prompt_tokens
            context.n_cache_tokens = (context.n_cache_tokens or 0) + turn.usage.reused_tokens
            context.n_output_tokens = (context.n_output_tokens or 0) + turn.usage.generated_tokens
            if not turn.message.calls:
                break
            ledger.append_tool_results([await _run(call, environment) for call in turn.message.calls])
        self._keep(ledger)

    def _keep(self, ledger: TokenLedger) -> None:
        self.logs_dir.mkdir(parents=True, exist_ok=True)
        name = f"kodkod-{int(time.time())}.json"
        (self.logs_dir / name).write_text(ledger.state().model_dump_json(), encoding="utf-8")


async def _run(call: ToolCall, environment: Any) -> ToolMessage:
    command, timeout_s = call.arguments.get("command"), call.arguments.get("timeout_s")
    if not isinstance(timeout_s, int) or timeout_s < 1:
        timeout_s = _TIMEOUT_S
    if call.fault is not None or call.name != SHELL.name or not isinstance(command, str):
        reason = call.fault or f"call {SHELL.name} with a command"
        return ToolMessage(call_id=call.id, text=f"error: {reason}")
    try:
        done = await environment.exec(command, timeout_sec=timeout_s)
    except (TimeoutError, RuntimeError) as fault:  # which of them, its environments differ in
        if isinstance(fault, RuntimeError) and "timed out" not in str(fault):
            raise
        return ToolMessage(call_id=call.id, text=f"the command ran past {timeout_s} s and was ended")
    said = f"{done.stdout or ''}{done.stderr or ''}"
    return ToolMessage(call_id=call.id, text=cut_middle(f"exit code {done.return_code}\n{said}", _MAX_CHARS))


def __getattr__(name: str) -> Any:
    """`KodkodAgent`, made on Harbor's base class."""
    if name != "KodkodAgent":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from harbor.agents.base import BaseAgent  # type: ignore[import-not-found]  # it needs Python 3.12

    return type("KodkodAgent", (Commands, BaseAgent), {"__module__": __name__})
