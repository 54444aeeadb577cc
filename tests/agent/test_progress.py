"""How far a repair has come, where a person had a hand in it."""

from __future__ import annotations

from typing import Any

from kodkod_agent.approval import Approval
from kodkod_agent.config import AgentConfig
from kodkod_agent.events import ApprovalAsked
from kodkod_agent.policy import PermissionMode
from kodkod_agent.progress import Tests, read_progress
from kodkod_agent.session import Session

from .conftest import call, says
from .guided import FAILING, GUIDED, TRACED, make_faulty

CONFIG = AgentConfig(baseline_tests=False, test_targets=(FAILING,), max_tries=2, attended=True)
WRONG = {"path": "clip.py", "line": 6, "old": " low", "new": " value"}


async def test_an_edit_that_the_person_changed_is_tested_and_never_taken_back(setup_of, project, root):
    make_faulty(project)
    script = [call("test", locate=True), call("view", path="clip.py", start=1, end=7), call("edit", **WRONG)]
    script += [call("test"), call("finish", summary="The failing tests pass now.")]
    setup = setup_of(
        [says("", one) for one in script], config=CONFIG, tools=TRACED, profile=GUIDED, mode=PermissionMode.DEFAULT
    )
    async with await Session.create(root, setup) as session:
        async for event in session.send("mend it"):
            if isinstance(event, ApprovalAsked):
                session.answer(*(_with(request.call, WRONG | {"new": " high"}) for request in event.requests))
        messages = session.ledger.view()
    (after_edit,) = [place for place, message in enumerate(messages) if "[the user changed" in _text(message)]
    progress = read_progress(messages[: after_edit + 1])
    assert (progress.tests, progress.standing, progress.edits) == (Tests.UNKNOWN, None, 1)
    assert read_progress(messages[:after_edit]).tests is Tests.FAILED
    assert "return high" in (project / "clip.py").read_text()


def _with(asked: Any, arguments: dict[str, Any]) -> Approval:
    return Approval(call_id=asked.id, allowed=True, arguments=arguments if asked.name == "edit" else None)


def _text(message: Any) -> str:
    return getattr(message, "text", "")
