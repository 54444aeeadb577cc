"""Grading without Docker: each prediction in a folder of its own, in a box of ours, read by the official package.

The steps are those of the official container: the patch is tried with the same commands in the same order, the row's
evaluation script runs, the official parser reads its log. Where a script names `/testbed`, it gets the folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kodkod_agent.errors import AgentError
from kodkod_app.boxes import open_box
from kodkod_app.candidate_places import copy_folder
from kodkod_app.first_fault import first_fault
from kodkod_app.repair_eval.packages import PackageFault
from kodkod_app.swebench.grounds import EnvironmentMissing, Ground, Grounds
from kodkod_app.swebench.rows import Row
from kodkod_app.swebench.work_tree import WorkTreeFault, make_single_commit
from kodkod_sandbox import bubblewrap
from kodkod_sandbox.base import Sandbox, SandboxKind
from kodkod_sandbox.errors import SandboxError

_TESTBED = re.compile(r"(?<![\w./-])/testbed(?![\w.-])")
_MAX_LOG_BYTES = 64_000_000
_PATCH_TIMEOUT_S = 60.0
_RESET = "git checkout -- . ; git clean -fd"
_FAULTS = (EnvironmentMissing, PackageFault, WorkTreeFault, SandboxError, AgentError, OSError)


def without_docker(kind: SandboxKind) -> SandboxKind:
    """The kind of box for grading without Docker: what was asked for, or the stronger one this machine has."""
    if kind not in (SandboxKind.AUTO, SandboxKind.DOCKER):
        return kind
    return SandboxKind.LANDLOCK if bubblewrap.missing() else SandboxKind.BUBBLEWRAP


@dataclass(frozen=True, slots=True)
class Bed:
    """A fresh work tree of an instance, and a box on it."""

    tree: Path
    box: Sandbox

    async def apply(self, patch: bytes, commands: Sequence[str]) -> tuple[bool, str]:
        """Try the commands until one applies the patch; whether one did, and what the last said."""
        said = ""
        for number, command in enumerate(commands):
            if number:
                await self.box.exec(_RESET, timeout_s=_PATCH_TIMEOUT_S)
            done = await self.box.exec(f"{command} -", stdin=patch, timeout_s=_PATCH_TIMEOUT_S)
            said = (done.stdout + done.stderr).decode("utf-8", "replace")
            if done.exit_code == 0:
                return True, said
        return False, said

    async def evaluate(self, script: str, timeout_s: float) -> tuple[str, bool]:
        """Run an evaluation script; its log, and whether it ran out of time."""
        inside = self.tree / ".git"  # what lies there is no part of the work tree
        with _made(inside, "eval.sh", 0o644) as file:
            file.write(in_folder(script, self.tree).encode())
        with _made(inside, "test_output.txt", 0o666) as file:  # the box's user may be another
            done = await self.box.exec("bash .git/eval.sh > .git/test_output.txt 2>&1", timeout_s=timeout_s)
            return file.read(_MAX_LOG_BYTES).decode("utf-8", "replace"), done.timed_out


@contextmanager
def _made(folder: Path, name: str, mode: int) -> Iterator[BinaryIO]:
    """A new file in the place of whatever a patch or a test put there: `patch` makes links, even into `.git`."""
    with _opened(folder, os.O_DIRECTORY | os.O_RDONLY) as place:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place)
        with _opened(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, place) as made:
            os.fchmod(made, mode)
            with open(made, "r+b", closefd=False) as file:
                yield file


@contextmanager
def _opened(path: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
    """A descriptor; no link is followed."""
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield opened
    finally:
        os.close(opened)


def in_folder(script: str, tree: Path) -> str:
    """An evaluation script for a work tree that lies elsewhere."""
    return _TESTBED.sub(lambda _: str(tree), script)


@asynccontextmanager
async def open_bed(ground: Ground) -> AsyncIterator[Bed]:
    """A fresh work tree with one commit, removed afterwards.

    Raises:
        WorkTreeFault, SandboxError, PackageFault: it cannot be had.
    """
    with copy_folder() as parent:
        tree = parent / "testbed"
        await asyncio.to_thread(ground.lay_out, tree)
        await asyncio.to_thread(make_single_commit, tree)
        async with open_box(await asyncio.to_thread(ground.box, tree)) as box:
            yield Bed(tree, box)


async def grade_in_folders(
    rows: Sequence[Row],
    predictions: Mapping[str, Mapping[str, Any]],
    grounds: Grounds,
    work: Path,
    run_id: str,
    workers: int,
    timeout_s: float,
    tell: Callable[[str], None],
) -> None:
    """Write the logs and reports the official container would have written; a report that is there stays.

    Args:
        rows: whose predictions have a patch.
        predictions: by instance.
        grounds: finds their files.
        work: where the official package would have run.
        run_id: names the logs.
        workers: instances at a time.
        timeout_s: of each one's tests.
        tell: takes a line on each.

    Raises:
        OSError: logs cannot be written.
    """
    waiting = list(reversed(rows))

    async def take() -> None:
        while waiting:
            row = waiting.pop()
            prediction = predictions[row.instance_id]
            model = str(prediction["model_name_or_path"]).replace("/", "__")
            folder = work / "logs" / "run_evaluation" / run_id / model / row.instance_id
            if not (folder / "report.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                tell(f"{row.instance_id}: {await _grade(row, prediction, grounds, folder, timeout_s)}")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(take())
    except* OSError as faults:
        raise first_fault(faults) from faults


async def _grade(row: Row, prediction: Mapping[str, Any], grounds: Grounds, folder: Path, timeout_s: float) -> str:
    """Grade one; what came of it. A report is written unless there was an error, as in the official container."""
    from swebench.harness.grading import get_eval_report  # type: ignore[import-untyped]  # it has no types
    from swebench.harness.run_evaluation import GIT_APPLY_CMDS  # type: ignore[import-untyped]  # as above
    from swebench.harness.utils import make_test_spec  # type: ignore[import-untyped]  # as above

    spec = make_test_spec(row.for_grader())
    (folder / "eval.sh").write_text(spec.eval_script, encoding="utf-8")
    try:
        patch = str(prediction["model_patch"]).encode()
    except UnicodeEncodeError as fault:  # halves of a sign, which JSON can hold and no file can
        return _error(folder, f"{type(fault).__name__}: {fault}", "the patch is no text")
    (folder / "patch.diff").write_bytes(patch)
    try:
        async with open_bed(await asyncio.to_thread(grounds.of, row)) as bed:
            is_applied, said = await bed.apply(patch, GIT_APPLY_CMDS)
            if not is_applied:
                return _error(folder, f">>>>> Patch Apply Failed:\n{said}", "the patch does not apply")
            log, timed_out = await bed.evaluate(spec.eval_script, timeout_s)
    except _FAULTS as fault:
        return _error(folder, f"{type(fault).__name__}: {fault}", str(fault))
    (folder / "test_output.txt").write_text(log, encoding="utf-8")
    if timed_out:
        return _error(folder, f"Test timed out after {timeout_s} seconds.", "out of time")
    report = get_eval_report(
        test_spec=spec,
        prediction=prediction,
        test_log_path=str(folder / "test_output.txt"),
        include_tests_status=True,
    )
    (folder / "run_instance.log").write_text(f">>>>> Applied Patch:\n{said}\nreport: {report}\n", encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=4), encoding="utf-8")
    return "resolved" if report[row.instance_id]["resolved"] else "not resolved"


def _error(folder: Path, log: str, why: str) -> str:
    (folder / "run_instance.log").write_text(f"{log}\n", encoding="utf-8")
    return f"error: {why}"
