"""What must be so in the end, looked at: each thing that is not, in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kodkod_app.evaluation.coding import Workshop
from kodkod_app.evaluation.desk import Desk, fingerprint_after
from kodkod_app.evaluation.function_match import mismatch, standard
from kodkod_app.evaluation.suite import CallChecks, CallPattern, Expectation, FileCheck, Suite, Task
from kodkod_app.evaluation.transcript import Made, Transcript

_COMMAND_TIMEOUT_S = 60.0
_MAX_FILE_BYTES = 2_000_000


def check_talk(expect: Expectation, transcript: Transcript) -> list[str]:
    """Calls and words."""
    agents = [call for call in transcript.calls if not call.by_user]
    return [*_calls(expect.calls, agents), *_by_user(expect.calls, transcript), *_words(expect, transcript.answers)]


def check_functions(task: Task, suite: Suite, transcript: Transcript) -> list[str]:
    """The first turn's calls, by BFCL's rules."""
    if task.expect.functions is None:
        return []
    specs = [tool.spec for tool in suite.world_of(task).tools]
    reason = mismatch(transcript.first_calls, task.expect.functions, specs)
    return [reason] if reason else []


def check_database(expect: Expectation, desk: Desk, task: Task, suite: Suite) -> list[str]:
    """Rows, and the whole by its hash.

    Raises:
        SuiteFault: a check cannot be run.
    """
    failed = []
    for check in expect.rows:
        wanted = [list(row) for row in check.equals]
        if (found := desk.query(check.sql)) != wanted:
            failed.append(f"{check.sql}: {found}, not {wanted}")
    if expect.database_after is not None:
        wanted_hash = fingerprint_after(suite.world_of(task), expect.database_after, suite.folder)
        if desk.fingerprint != wanted_hash:
            failed.append("the database is not as it should be")
    return failed


async def check_files(expect: Expectation, workshop: Workshop, before: dict[str, str]) -> list[str]:
    """Files, and commands in a fresh box.

    Raises:
        SandboxError: the box failed.
    """
    failed = [reason for name, check in expect.files.items() for reason in _file(workshop.tree, name, check, before)]
    if expect.commands:
        async with workshop.box() as box:
            for check in expect.commands:
                done = await box.exec(check.run, timeout_s=_COMMAND_TIMEOUT_S)
                said = (done.stdout + done.stderr).decode("utf-8", "replace")
                if done.exit_code != check.exit_code:
                    failed.append(f"{check.run}: exit code {done.exit_code}, not {check.exit_code}")
                elif check.prints is not None and not re.search(check.prints, said):
                    failed.append(f"{check.run}: {check.prints!r} is not in what it printed")
    return failed


def _file(tree: Path, name: str, check: FileCheck, before: dict[str, str]) -> Iterator[str]:
    text = _text(tree / name)
    if text is None:
        if not check.absent:
            yield f"{name}: is not there"
        return
    if check.absent:
        yield f"{name}: is there"
    if check.unchanged and text != before.get(name):
        yield f"{name}: was changed"
    if check.equals is not None and text != check.equals:
        yield f"{name}: is not as it should be"
    yield from (f"{name}: lacks {part!r}" for part in check.contains if part not in text)
    yield from (f"{name}: has {part!r}" for part in check.lacks if part in text)
    if check.matches is not None and not re.search(check.matches, text):
        yield f"{name}: {check.matches!r} is not in it"


def _text(path: Path) -> str | None:
    """A file's text; a link counts as no file, for it may lead anywhere."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")


def _calls(checks: CallChecks, made: Sequence[Made]) -> Iterator[str]:
    if checks.none and made:
        yield f"{made[0].name} was called, and nothing was to be"
    if checks.most is not None and len(made) > checks.most:
        yield f"{len(made)} calls, where {checks.most} are enough"
    yield from (f"{_told(one)} was called" for one in checks.forbidden if any(_fits(call, one) for call in made))
    yield from (
        f"{_told(one)} was not called" for one in checks.any_order if not any(_fits(call, one) for call in made)
    )
    left = iter(made)
    for one in checks.in_order:
        if not any(_fits(call, one) for call in left):
            yield f"{_told(one)} was not called in its place"
            return


def _by_user(checks: CallChecks, transcript: Transcript) -> Iterator[str]:
    made = [call for call in transcript.calls if call.by_user]
    for one in checks.by_user:
        if not any(_fits(call, one) for call in made):
            yield f"the user was not brought to {_told(one)}"


def _fits(call: Made, pattern: CallPattern) -> bool:
    if call.name != pattern.name or call.fault is not None:
        return False
    return all(
        name in call.arguments and _equal(call.arguments[name], value) for name, value in pattern.arguments.items()
    )


def _equal(given: object, wanted: object) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return standard(given) == standard(wanted)
    return given == wanted


def _told(pattern: CallPattern) -> str:
    return f"{pattern.name}({', '.join(f'{name}={value!r}' for name, value in pattern.arguments.items())})"


def _words(expect: Expectation, answers: Sequence[str]) -> Iterator[str]:
    whole = "\n".join(answers)
    yield from (f"{one!r} was not said" for one in expect.said if not re.search(one, whole))
    yield from (f"{one!r} was said" for one in expect.not_said if re.search(one, whole))
