"""A session as a document that others can read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from kodkod_agent import atif
from kodkod_agent import trajectory as t
from kodkod_agent.errors import AgentError
from kodkod_agent.session_folder import SessionFolder
from kodkod_app.render import for_terminal
from kodkod_app.report_text import told_shortening
from kodkod_app.session_story import Story, StoryStep, read_story
from kodkod_engine.chat.surrogates import without_lone_surrogates


class NothingToExport(AgentError):
    """The session holds nothing that could be told."""

    exit_code = 2


def as_markdown(folder: SessionFolder) -> str:
    """For people: what was said, called and answered, without control characters.

    Raises:
        SessionDamaged: a file cannot be read.
    """
    story = read_story(folder)
    return for_terminal(without_lone_surrogates("\n\n".join(_markdown(story)) + "\n"))


def as_jsonl(folder: SessionFolder) -> str:
    """The trajectory itself, without a torn last line.

    Raises:
        SessionDamaged: it cannot be read.
    """
    return b"".join(entry.to_line() for entry in t.read(folder.trajectory)).decode("ascii")


def as_atif(folder: SessionFolder, name: str) -> dict[str, str]:
    """The documents of the Agent Trajectory Interchange Format by file name, several after a compaction.

    Raises:
        SessionDamaged: the trajectory cannot be read.
        NothingToExport: nobody ever spoke.
    """
    try:
        documents = atif.export(t.read(folder.trajectory), name=name)
    except ValueError as fault:
        raise NothingToExport(f"session {folder.path.name} cannot be exported: {_one_line(str(fault))}") from fault
    names = atif.file_names(name, len(documents))
    return {place: document.to_json() for place, document in zip(names, documents, strict=True)}


def write_export(folder: SessionFolder, form: str, path: Path) -> list[Path]:
    """Write a session as `markdown`, `jsonl` or `atif`; the files, those after a compaction beside the first.

    Raises:
        SessionDamaged, NothingToExport: there is nothing to be written.
        OSError: a file cannot be written.
    """
    if form == "atif":
        texts = list(as_atif(folder, path.stem).items())
    else:
        texts = [(path.name, as_markdown(folder) if form == "markdown" else as_jsonl(folder))]
    files = [path, *(path.with_name(name) for name, _ in texts[1:])]
    for file, (_, text) in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _markdown(story: Story) -> Iterator[str]:
    info, ending = story.info, story.ending
    yield f"# {_one_line(info.title) or 'Untitled session'}"
    yield "\n".join(
        (
            f"- session {info.id}, {info.created_at:%Y-%m-%d %H:%M} UTC",
            f"- work tree {_one_line(str(info.work_tree))}",
            f"- {ending.status}{f': {_one_line(ending.reason)}' if ending.reason else ''}",
        )
    )
    for step in story.steps:
        yield from _markdown_step(step)


def _markdown_step(step: StoryStep) -> Iterator[str]:
    for text in step.said:
        yield "\n".join(f"> {line}" for line in text.splitlines())
    yield f"## Step {step.number}"
    if step.turn.text.strip():
        yield step.turn.text.strip()
    for call in step.turn.calls:
        yield f"**{_one_line(call.name)}** ({step.outcome(call)})"
        yield _fenced(json.dumps(dict(call.arguments), indent=2, ensure_ascii=False) if not call.fault else call.raw)
        if call.id in step.outcomes:
            yield _fenced(step.outcomes[call.id].for_model)
    for rebuilt in step.shortened:
        yield f"## {told_shortening(rebuilt.tokens_before, rebuilt.tokens_after).capitalize()}"
        yield rebuilt.summary.strip()


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any the text holds."""
    longest = max((len(ticks) for ticks in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
