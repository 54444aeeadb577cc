"""The files a conversation works on become sources of drafts."""

from __future__ import annotations

from kodkod_agent.draft_sources import MAX_FILES, draft_sources, paths_in_use
from kodkod_engine.messages import AssistantMessage, ToolCall, UserMessage
from kodkod_tools.base import ToolContext
from kodkod_tools.config import ToolsConfig


class Words:
    def encode_text(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]


def said(*paths: object) -> AssistantMessage:
    return AssistantMessage(
        calls=tuple(ToolCall(id=str(path), name="view", arguments={"path": path}) for path in paths)
    )


def context(folder) -> ToolContext:
    return ToolContext(
        sandbox=None, work_tree=folder.resolve(), config=ToolsConfig(), log_folder=folder.resolve() / "log"
    )


def test_paths_are_those_that_calls_named_the_latest_last():
    messages = [said("a.py", "b.py"), UserMessage(text="c.py"), said("a.py"), said(7), AssistantMessage(text="d.py")]
    assert paths_in_use(messages) == ["b.py", "a.py"]


def test_files_are_read_as_they_are_now(tmp_path):
    (tmp_path / "a.py").write_text("one three\n")
    tools, words = context(tmp_path), Words()
    assert draft_sources([said("a.py")], tools, words) == ((3, 5),)
    (tmp_path / "a.py").write_text("four\n")
    assert draft_sources([said("a.py")], tools, words) == ((4,),)


def test_what_cannot_be_read_is_left_out(tmp_path):
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_text("x" * 300_000)
    named = said("binary", "empty", "folder", "large", "missing", "../outside", "/etc/passwd", "")
    assert draft_sources([named], context(tmp_path), Words()) == ()


def test_only_the_latest_files_count(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}").write_text("x" * (number + 1))
    found = draft_sources([said(*map(str, range(12)))], context(tmp_path), Words())
    assert found == tuple((number + 1,) for number in range(12 - MAX_FILES, 12))
