"""Real faults as the agent meets them, and what ranking and model say of each plausible edit: to weigh the two.

A scene is what there is before the first view: the tests' output with its suspects, the files, and the repair that is
known. It is judged by the agent's own code (`kodkod_agent.judging`) with the model that is asked about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from kodkod_agent.guidance import Guide, WorkTreeFiles
from kodkod_agent.judging import LEAST_EDIT, LEAST_VIEW, Judge
from kodkod_agent.progress import read_progress
from kodkod_agent.ranking import EditRanker, RankedEdit
from kodkod_app.nano.broken import Instance, broken_instances
from kodkod_app.nano.spans import Edit
from kodkod_app.nano.workshop import Workshop
from kodkod_app.repair_eval.bench import TOOLS
from kodkod_app.repair_prompt import failing_prompt
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.template import encode_pieces, message_pieces
from kodkod_engine.messages import AssistantMessage, ToolCall, ToolMessage
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox
from kodkod_tools.base import ToolContext
from kodkod_tools.tests_told import told_result

if TYPE_CHECKING:
    from kodkod_app.bootstrap import Model

Change = tuple[str, str, str]
"""Path, line, and what the line becomes. See `ways.Way.change`."""
Shares = tuple[float, float]
"""Of the model's log-probabilities of the view and of the edit."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One fault."""

    package: str
    kind: str
    """The fault's."""
    tests: tuple[str, ...]
    """That fail."""
    told: str
    """What the test tool answered."""
    texts: Mapping[str, str]
    """Of the suspects' files as they are, broken, by path."""
    path: str
    """The broken file."""
    repair: Edit

    @property
    def wanted(self) -> Change | None:
        """What the repair makes of its line; None where no suspect is in its file."""
        lines = self.texts.get(self.path, "").split("\n")
        return None if self.repair.line > len(lines) else self._changed(self.path, self.repair)

    def changed(self, edit: RankedEdit) -> Change:
        """What an edit makes of its line."""
        return self._changed(edit.path, Edit(edit.line, edit.old, edit.new))

    def _changed(self, path: str, edit: Edit) -> Change:
        return path, str(edit.line), self.texts[path].split("\n")[edit.line - 1].replace(edit.old, edit.new)


@dataclass(frozen=True, slots=True)
class Opinion:
    """On one of the plausible edits: natural log-probabilities."""

    is_repair: bool
    ranked: float
    """The ranking's."""
    view: float
    """The model's, of looking at the function."""
    edit: float
    """The model's, of the edit under that view."""

    def score(self, shares: Shares) -> float:
        """As the agent adds them up, with these shares of the model's."""
        of_view, of_edit = shares
        return self.ranked + of_view * max(self.view, LEAST_VIEW) + of_edit * max(self.edit, LEAST_EDIT)


@dataclass(frozen=True, slots=True)
class Judged:
    """A scene's edits."""

    package: str
    kind: str
    opinions: tuple[Opinion, ...]

    def place(self, shares: Shares) -> int | None:
        """How many edits come before the repair; None where it is not among them."""
        right = [one.score(shares) for one in self.opinions if one.is_repair]
        return sum(one.score(shares) > right[0] for one in self.opinions) if right else None


_scenes = TypeAdapter(Scene)
_judged = TypeAdapter(Judged)


def play_scenes(workshop: Workshop, seed: int, most: int) -> Iterator[Scene]:
    """Faults of a package that its own tests show.

    Raises:
        RunnerFault: the tests cannot be run any more.
    """
    rng = Random(f"{seed} {workshop.package.spec.pinned} scenes")
    for instance in broken_instances(workshop, rng, most):
        yield scene_of(workshop, instance)


def scene_of(workshop: Workshop, instance: Instance) -> Scene:
    """As the agent would come to know of it."""
    found, run = instance.suspects(workshop), instance.run_result
    told = told_result(run.cases, found, run.exit_code, run.duration_s, TOOLS, targets=instance.failing_tests)
    paths = dict.fromkeys(one.path for one in found)
    texts = {path: instance.broken if path == instance.path else workshop.read(path) for path in paths}
    name = workshop.package.spec.name
    return Scene(name, instance.fault.kind, instance.failing_tests, told, texts, instance.path, instance.fault.repair)


def write_scenes(scenes: Iterable[Scene], path: Path) -> None:
    """One a line, each as soon as it is there."""
    with path.open("wb") as file:
        for scene in scenes:
            file.write(_scenes.dump_json(scene) + b"\n")
            file.flush()


def read_scenes(paths: Sequence[Path]) -> list[Scene]:
    """Those of several files.

    Raises:
        OSError, ValueError: a file is none that `write_scenes` wrote.
    """
    return [_scenes.validate_json(line) for path in paths for line in path.read_bytes().splitlines()]


def write_judged(judged: Iterable[Judged], path: Path) -> None:
    """One a line, each as soon as it is there."""
    with path.open("wb") as file:
        for one in judged:
            file.write(_judged.dump_json(one) + b"\n")
            file.flush()


def read_judged(path: Path) -> list[Judged]:
    """What `write_judged` wrote.

    Raises:
        OSError, ValueError: it is another file.
    """
    return [_judged.validate_json(line) for line in path.read_bytes().splitlines()]


async def judge(scene: Scene, model: Model, ranker: EditRanker, most: int) -> Judged:
    """The best edits with what both say of them.

    Args:
        scene: the fault.
        model: the one that is asked.
        ranker: names the edits.
        most: edits that are named.

    Raises:
        EngineError: the engine failed.
    """
    with TemporaryDirectory(prefix="kodkod-scene-") as name:
        tree = Path(name).resolve()
        for path, text in scene.texts.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text, encoding="utf-8", newline="")
        tools = ToolContext(NoSandbox(BoxOptions(tree)), tree, TOOLS, tree / ".logs")
        guide = Guide(model.tokenizer, WorkTreeFiles(tools), ranker=ranker, max_ranked=most)
        ledger = _opened(scene, model)
        progress = read_progress(ledger.view())
        named = guide.named(progress) or []
        found = await Judge(model.engine, model.tokenizer, tools).judged(ledger, progress, named)
    opinions = tuple(
        Opinion(scene.changed(one.edit) == scene.wanted, one.edit.logprob, one.view.logprob, one.turn.logprob)
        for one in found
    )
    return Judged(scene.package, scene.kind, opinions)


def _opened(scene: Scene, model: Model) -> TokenLedger:
    """The conversation up to the tests' answer."""
    assert model.profile is not None
    ledger = TokenLedger.open(model.tokenizer, model.profile.specs(), None, declare=False)
    ledger.append_user(failing_prompt(scene.tests))
    ledger.begin_turn()
    call = AssistantMessage(calls=(ToolCall(id="0", name="test", arguments={"locate": True}),))
    pieces = [piece for piece in message_pieces(call) if piece is not Tag.ASSISTANT]
    ledger.append_generated(encode_pieces(model.tokenizer, pieces))
    (asked,) = ledger.end_turn().calls
    ledger.append_tool_results([ToolMessage(call_id=asked.id, text=scene.told)])
    return ledger


def told(judged: Sequence[Judged], shares: Sequence[Shares], most: Sequence[int]) -> dict[str, object]:
    """How often the repair is among the first so many, of all scenes, by the model's shares."""
    rows = {}
    for of_view, of_edit in shares:
        places = [one.place((of_view, of_edit)) for one in judged]
        rows[f"{of_view:g}, {of_edit:g}"] = [
            round(sum(place is not None and place < number for place in places) / max(1, len(judged)), 4)
            for number in most
        ]
    among = sum(one.place((0, 0)) is not None for one in judged)
    return {"scenes": len(judged), "repair among the edits": among, "among the first": list(most), "by shares": rows}
