"""Making instances: a release broken by a seeded fault, in the form of SWE-bench version 5.

    release ─► its tests, sound ─► a fault its tests show ─► both trees through the evaluation script, twice the sound
            ─► what the official parser reads: FAIL_TO_PASS, PASS_TO_PASS ─► a row

The issue names failing tests, which lie in the work tree: the agent may run them, and the grader takes them from the
commit. An id the official parser cannot tell apart (one with a blank) is in neither list.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import platform
import shlex
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kodkod_app.output_folder import OutputFault, make_output
from kodkod_app.repair_eval.bench import Bench, open_bench
from kodkod_app.repair_eval.instances import Baseline, Instance, measure, plant_faults
from kodkod_app.repair_eval.packages import Package, PackageFault, PackageSpec, make_ready
from kodkod_app.repair_prompt import failing_prompt
from kodkod_app.swebench.folder_grading import open_bed, without_docker
from kodkod_app.swebench.grounds import Grounds, ReleaseGround, environment_without
from kodkod_app.swebench.instance_images import build_missing, image_name
from kodkod_app.swebench.rows import read_rows, write_rows
from kodkod_app.swebench.work_tree import make_single_commit
from kodkod_sandbox.base import SandboxKind

_TIMEOUT_S = 300.0
_SPARE = 2
"""Faults planted for each that is wanted; some are dropped."""
_MAX_NAMED = 3
_SETTINGS = ("pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml")
_PER_SEED = 1000
_EVAL_SCRIPT = """\
#!/bin/bash
set -uxo pipefail
cd /testbed
export PYTHONPATH=/testbed{source} PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1
git checkout HEAD -- {restored}
git clean -fdq -- ':(glob)**/conftest.py'
: '>>>>> Start Test Output'
python -m pytest -rA -p no:cacheprovider --rootdir=/testbed {tests}
: '>>>>> End Test Output'
git checkout HEAD -- {restored}
"""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What is wanted."""

    packages: tuple[PackageSpec, ...]
    instances: int
    """In all, shared out evenly."""
    seed: int
    folder: Path
    kind: SandboxKind
    images: bool = False

    def share(self, number: int) -> int:
        """Instances of one package."""
        whole, rest = divmod(self.instances, len(self.packages))
        return whole + (number < rest)


async def build_dataset(plan: BuildPlan, tell: Callable[[str], None]) -> Path:
    """Make the instances, and images of them when wanted; the data set's file.

    Raises:
        OutputFault: there is a data set already, which runs may be of.
        PackageFault, SandboxError: a fault, or no instance could be made; rows made so far are in a file of their own.
    """
    make_output(plan.folder)
    path, part, rows = plan.folder / "dataset.jsonl", plan.folder / "dataset.part.jsonl", []
    if path.exists():
        raise OutputFault(f"{path} is there already; choose another folder with -o, or remove it")
    for number, spec in enumerate(plan.packages):
        if plan.share(number):
            async for row in _rows_of(spec, plan.share(number), plan, tell):
                rows.append(row)
                write_rows(rows, part)
                tell(f"{len(rows)} of {plan.instances}  {row['instance_id']}")
    if not rows:
        raise PackageFault(
            "no instance could be made of these packages; choose others with --package, or another --seed"
        )
    if plan.images:
        await asyncio.to_thread(build_missing, read_rows(part), Grounds(plan.kind), tell)
    return part.replace(path)


async def _rows_of(
    spec: PackageSpec, count: int, plan: BuildPlan, tell: Callable[[str], None]
) -> AsyncIterator[dict[str, Any]]:
    kind = without_docker(plan.kind)
    tell(f"{spec.pinned}: making it ready")
    package = await asyncio.to_thread(make_ready, spec)
    async with open_bench(package, kind) as bench:
        baseline = await measure(bench)
        if baseline is None:
            tell(f"{spec.pinned}: its tests cannot be used here; left out")
            return
        maker = _Maker(package, bench, baseline, plan, kind)
        made = 0
        async for instance in plant_faults(bench, baseline, plan.seed, count * _SPARE):
            row = await maker.row(instance, made + 1)
            if row is not None:
                made += 1
                yield row
            if made == count:
                return
        tell(f"{spec.pinned}: {made} of {count} instances, for its tests show no more faults")


@dataclass(slots=True)
class _Maker:
    """Makes rows of one package; sound runs are remembered by test file."""

    package: Package
    bench: Bench
    baseline: Baseline
    plan: BuildPlan
    kind: SandboxKind
    _sound: dict[str, dict[str, str]] = field(default_factory=dict)

    async def row(self, instance: Instance, number: int) -> dict[str, Any] | None:
        """A row; None where the official parser sees nothing that fails, or nothing that passes."""
        patch = _patch(instance, self.bench.read(instance.fault.path))
        script = eval_script(self.package, (instance.test_file,))
        broken = await self._statuses(patch, script)
        sound = await self._sound_statuses(instance.test_file, script)
        passing = {name for name, status in sound.items() if status == "PASSED" and is_exact(name)}
        maintained = tuple(sorted(name for name in passing if broken.get(name) == "PASSED"))
        mended = tuple(sorted(passing - set(maintained)))
        named = [name for name in instance.fault.failing_tests if name in mended][:_MAX_NAMED]
        if not named or not maintained:
            return None
        return {
            **await self._identity(patch, number),
            "patch": patch,
            "test_patch": "",
            "problem_statement": failing_prompt(named),
            "hints_text": "",
            "created_at": "",
            "FAIL_TO_PASS": json.dumps(mended),
            "PASS_TO_PASS": json.dumps(maintained),
            "eval_script": script,
            "log_parser": "parse_log_pytest",
            "eval_type": "pass_and_fail",
            "sdist": self.package.spec.pinned,
            "licence": self.package.spec.licence,
            "fault_kind": instance.fault.kind,
        }

    async def _identity(self, patch: str, number: int) -> dict[str, str]:
        spec = self.package.spec
        instance_id = f"pypi__{spec.name}-{self.plan.seed * _PER_SEED + number}"
        commit = await self._commit(patch)
        return {
            "repo": f"pypi/{spec.name}",
            "instance_id": instance_id,
            "base_commit": commit,
            "environment_setup_commit": commit,
            "version": spec.version,
            "image": image_name(instance_id, platform.machine()),
        }

    async def _commit(self, patch: str) -> str:
        async with open_bed(self._ground(patch)) as bed:
            return await asyncio.to_thread(make_single_commit, bed.tree)

    async def _sound_statuses(self, test_file: str, script: str) -> dict[str, str]:
        """Of two runs without a fault: what differs between them is unsteady, and left out."""
        if test_file not in self._sound:
            first, second = [await self._statuses("", script) for _ in range(2)]
            self._sound[test_file] = {name: status for name, status in first.items() if second.get(name) == status}
        return self._sound[test_file]

    async def _statuses(self, patch: str, script: str) -> dict[str, str]:
        """Status by test, as the official parser reads the log."""
        async with open_bed(self._ground(patch)) as bed:
            log, _ = await bed.evaluate(script, _TIMEOUT_S)
        return read_statuses(log)

    def _ground(self, patch: str) -> ReleaseGround:
        return ReleaseGround(self.package, environment_without(self.package), patch, self.kind)


def eval_script(package: Package, tests: Iterable[str]) -> str:
    """What the grader runs: the tests and their settings as committed, then pytest with its root named."""
    tests = sorted(tests)
    settings = [name for name in _SETTINGS if (package.tree / name).is_file()]
    settings += sorted(str(path.relative_to(package.tree)) for path in package.tree.rglob("conftest.py"))
    return _EVAL_SCRIPT.format(
        source=f"/{package.source_folder}" if package.source_folder else "",
        restored=shlex.join([*tests, *settings]),
        tests=shlex.join(tests),
    )


def read_statuses(log: str) -> dict[str, str]:
    """Status by test id between the markers, by the official parser."""
    from swebench.harness.constants import END_TEST_OUTPUT, START_TEST_OUTPUT  # type: ignore[import-untyped]  # no types
    from swebench.harness.log_parsers.python import parse_log_pytest  # type: ignore[import-untyped]  # as above

    inside = log.partition(START_TEST_OUTPUT)[2].partition(END_TEST_OUTPUT)[0]
    return dict(parse_log_pytest(inside, None))


def is_exact(name: str) -> bool:
    """Whether an id the parser gave is a whole one: it parts lines at blanks, so one with a blank loses its end."""
    return "::" in name and name.count("[") == name.count("]") and (not name.count("[") or name.endswith("]"))


def _patch(instance: Instance, sound: str) -> str:
    """From the broken module to the sound one."""
    path = instance.fault.path
    lines = difflib.unified_diff(
        instance.broken.splitlines(keepends=True),
        sound.splitlines(keepends=True),
        f"a/{path}",
        f"b/{path}",
    )
    body = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return f"diff --git a/{path} b/{path}\n{body}"
