"""Real dialogues: a package broken, its own tests run, every result put into words by the real tools.

The right repair is known, so no model takes part. Some dialogues try a wrong edit first and take it back; some look at
the wrong function first. Such steps are context and are not learnt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from kodkod_app.nano.broken import Instance, broken_instances
from kodkod_app.nano.dialogue import (
    Dialogue,
    Origin,
    Turn,
    edit_turn,
    finish_turn,
    restore_turn,
    run_turn,
    view_turn,
)
from kodkod_app.nano.faults import inverse_edits
from kodkod_app.nano.packages import PackageSpec, Role, known_packages, make_ready
from kodkod_app.nano.runs import RunResult
from kodkod_app.nano.spans import Edit, applied
from kodkod_app.nano.tool_desk import ToolDesk
from kodkod_app.nano.workshop import Workshop, prepare
from kodkod_app.own_git import begin_repository, commit_all
from kodkod_app.repair_eval.bench import TOOLS
from kodkod_tools.locate.suspects import Suspect
from kodkod_tools.tests_told import told_result

VALIDATION = ("natsort", "texttable")
"""Of the packages to learn from, those kept aside to measure on."""
_WRONG_EDIT_FIRST = 0.2
_WRONG_VIEW_FIRST = 0.2
"""Of the dialogues in which another function is suspected most."""
_TEST_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class _Scene:
    """A broken package, what is suspected, and where its dialogue is played."""

    workshop: Workshop
    desk: ToolDesk
    instance: Instance
    suspects: tuple[Suspect, ...]
    rank: int
    """Of the suspect that shows the fault."""

    @property
    def path(self) -> str:
        """Of the broken file."""
        return self.instance.path


def specs(*, validation: bool) -> list[PackageSpec]:
    """The packages that are broken to learn from, or those kept aside."""
    return [spec for spec in known_packages(Role.TRAIN) if (spec.name in VALIDATION) == validation]


def collect(spec: PackageSpec, seed: int, count: int, seconds: float) -> list[Dialogue]:
    """The dialogues about at most `count` faults of a package that can be had in this time.

    Raises:
        PackageFault: it cannot be made ready.
        RunnerFault: its tests cannot be run.
    """
    found: list[Dialogue] = []
    with prepare(make_ready(spec)) as workshop:
        deadline = time.monotonic() + seconds
        for dialogue in real_dialogues(workshop, seed, count):
            found.append(dialogue)
            if time.monotonic() > deadline:
                break
    return found


def real_dialogues(workshop: Workshop, seed: int, count: int) -> Iterator[Dialogue]:
    """A dialogue for each of so many faults; none for a fault that no suspect shows, or that is not mended for sure.

    Raises:
        RunnerFault: the tests cannot be run any more.
    """
    rng = Random(f"{seed} {workshop.package.spec.pinned}")
    for instance in broken_instances(workshop, rng, count):
        with TemporaryDirectory(prefix="kodkod-nano-") as name, ToolDesk(Path(name).resolve(), TOOLS) as desk:
            dialogue = _dialogue(workshop, desk, instance, rng)
        if dialogue is not None:
            yield dialogue


def _dialogue(workshop: Workshop, desk: ToolDesk, instance: Instance, rng: Random) -> Dialogue | None:
    found = instance.suspects(workshop)
    line = instance.fault.repair.line
    rank = next((rank for rank, one in enumerate(found) if _shows(one, instance.path, line)), None)
    if rank is None:
        return None
    scene = _Scene(workshop, desk, instance, found, rank)
    desk.put(instance.path, instance.broken)
    turns = [run_turn(_told(scene, instance.run_result, found), locate=True), *_views(scene, rng)]
    if rng.random() < _WRONG_EDIT_FIRST:
        turns += _wrong_edit(scene, rng)
    tested = _tested(scene, instance.fault.repair)
    if tested.exit_code != 0:
        return None
    edit = _edit(scene, instance.fault.repair, learnt=True)
    turns += [edit, run_turn(_told(scene, tested, None)), finish_turn()]
    return Dialogue(instance.failing_tests, tuple(turns), instance.fault.kind, Origin.REAL)


def _shows(suspect: Suspect, path: str, line: int) -> bool:
    return suspect.path == path and suspect.first_line <= line <= suspect.last_line


def _told(scene: _Scene, run: RunResult, found: tuple[Suspect, ...] | None) -> str:
    config, targets = scene.desk.config, scene.instance.failing_tests
    return told_result(run.cases, found, run.exit_code, run.duration_s, config, targets=targets)


def _views(scene: _Scene, rng: Random) -> list[Turn]:
    """The right one; the most suspected one before it, now and then."""
    right = _view(scene, scene.suspects[scene.rank], learnt=True)
    if scene.rank == 0 or rng.random() >= _WRONG_VIEW_FIRST:
        return [right]
    return [_view(scene, scene.suspects[0], learnt=False), right]


def _view(scene: _Scene, suspect: Suspect, *, learnt: bool) -> Turn:
    if suspect.path != scene.path:
        scene.desk.put(suspect.path, scene.workshop.read(suspect.path))
    first, last = suspect.first_line, suspect.last_line
    seen = scene.desk.call("view", {"path": suspect.path, "start": first, "end": last})
    return view_turn(suspect.path, first, last, seen.for_model, learnt=learnt)


def _wrong_edit(scene: _Scene, rng: Random) -> list[Turn]:
    """An edit that might have been right, the test that says no, and the file put back. Nothing where it mends too."""
    lines = set(scene.suspects[scene.rank].lines)
    choices = [edit for edit in inverse_edits(scene.instance.broken, lines) if edit != scene.instance.fault.repair]
    if not choices:
        return []
    wrong = rng.choice(choices)
    tested = _tested(scene, wrong)
    if tested.exit_code == 0 or not tested.cases:
        return []
    begin_repository(scene.desk.tree)
    commit_all(scene.desk.tree)
    edit = _edit(scene, wrong, learnt=False)
    restored = scene.desk.call("git", {"action": "restore", "path": scene.path})
    return [edit, run_turn(_told(scene, tested, None)), restore_turn(scene.path, restored.for_model)]


def _tested(scene: _Scene, edit: Edit) -> RunResult:
    text = applied(scene.instance.broken, edit)
    return scene.workshop.run({scene.path: text}, scene.instance.failing_tests, _TEST_TIMEOUT_S)


def _edit(scene: _Scene, edit: Edit, *, learnt: bool) -> Turn:
    turn = edit_turn(scene.path, edit.line, edit.old, edit.new, learnt=learnt)
    done = scene.desk.call("edit", turn.arguments)
    return edit_turn(scene.path, edit.line, edit.old, edit.new, done.for_model, learnt=learnt)
