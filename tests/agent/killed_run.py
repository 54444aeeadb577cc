"""A process that is there to be killed. It imports everything once; each line on its input starts a child that works
on a session, and the child's id and end are told on its output.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import git  # noqa: F401  # a child would load this and the next anew, which takes longer than its run

import kodkod_agent.call_grammar  # noqa: F401
from kodkod_agent.config import AgentConfig
from kodkod_agent.events import ApprovalAsked, RunEnded
from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.session_folder import list_sessions
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, ToolCall
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox

NUM_EDITS = 6


def script_of(tokenizer: Tokenizer):
    """Edits that would show if they were done twice, or not at all; one of them by a command."""

    def answer(prompt_ids: tuple[int, ...]) -> list[int]:
        turn = prompt_ids.count(tokenizer.special.assistant_id) - 1
        if turn == NUM_EDITS:
            call = ToolCall(id="", name="finish", arguments={"summary": "done"})
        elif turn == 2:
            call = ToolCall(id="", name="shell", arguments={"command": f"sed -i 's/^end$/line {turn}\\nend/' log.txt"})
        else:
            new = {"path": "log.txt", "old": "end\n", "new": f"line {turn}\nend\n"}
            call = ToolCall(id="", name="edit", arguments=new)
        message = AssistantMessage(text=f"Turn {turn}.", calls=(call,))
        return [*encode_pieces(tokenizer, assistant_pieces(message)), tokenizer.eos_id]

    return answer


async def work(tokenizer: Tokenizer, project: Path, root: Path, *, ask: bool) -> None:
    """Begin the session or go on with it, to the end of the run."""
    engine = ScriptedEngine(
        script_of(tokenizer), vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, tokenizer=tokenizer
    )
    box = NoSandbox(BoxOptions(work_tree=project))
    mode = PermissionMode.DEFAULT if ask else PermissionMode.BYPASS_PERMISSIONS
    setup = SessionSetup(
        engine, tokenizer, box, project, AgentConfig(verify=False), mode=mode, trusted=True, sandboxed=True
    )
    await box.start()
    try:
        known = list_sessions(root)
        opened = Session.resume(root, known[0].id, setup) if known else Session.create(root, setup)
        async with await opened as session:
            await follow(session, is_started=bool(session.steps), ask=ask)
    finally:
        await box.close()
        engine.close()


async def follow(session: Session, *, is_started: bool, ask: bool) -> None:
    """Go on with what was cut short, or say it if it was never heard."""
    unfinished = await session.is_unfinished()
    if is_started and not unfinished:
        return
    async for event in session.proceed() if unfinished else session.send("write the log"):
        if isinstance(event, ApprovalAsked) and ask:
            print("asked", flush=True)
            await asyncio.sleep(60)
        assert not isinstance(event, RunEnded) or event.report.summary == "done", event


def main(tokenizer_folder: str, project: str, root: str, ask: str) -> None:
    """Serve."""
    tokenizer = Tokenizer.from_folder(Path(tokenizer_folder))
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(work(tokenizer, Path(project), Path(root), ask=ask == "ask"))
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
