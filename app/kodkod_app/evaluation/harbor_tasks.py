"""Task directories of Harbor, done in boxes of ours, without Harbor.

    task.toml  instruction.md  environment/  solution/solve.sh  tests/test.sh

The files of `environment/` are the work tree, or those of the image that `docker_image` names, if the local daemon has
it. When the agent has ended, `tests/` comes into the tree and `test.sh` runs; the reward it writes decides. A box shows
its work tree alone, so `/tests`, `/solution`, `/logs` and the task's own work folder lie in the tree, and scripts get
their places there. A Dockerfile is read for its COPY and WORKDIR; one that runs commands needs its image built.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kodkod_app.evaluation.suite import Suite, SuiteFault
from kodkod_app.evaluation.suite_fields import MAX_NAME_BYTES
from kodkod_sandbox.base import Sandbox
from kodkod_sandbox.removal import remove_tree

MARK = "task.toml"
_OWN = ".harbor"
"""Folder in the work tree for what Harbor has at the root."""
_ROOTS = ("tests", "solution", "logs")
_DEFINITIONS = ("Dockerfile", "docker-compose.yaml", "docker-compose.yml", ".dockerignore")
_HARMLESS = ("FROM", "WORKDIR", "COPY", "ENV", "LABEL", "CMD", "ENTRYPOINT", "EXPOSE", "USER")
_MAX_REWARD_BYTES = 1_000_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Named(_Part):
    name: str = ""


class _Agent(_Part):
    timeout_sec: float = Field(default=3600.0, gt=0)


class _Verifier(_Part):
    timeout_sec: float = Field(default=600.0, gt=0)
    env: dict[str, str] = Field(default_factory=dict)


class _Environment(_Part):
    docker_image: str | None = None
    workdir: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    network_mode: str = "no-network"


class _Solution(_Part):
    env: dict[str, str] = Field(default_factory=dict)


class TaskFile(_Part):
    """What is read of `task.toml`."""

    task: _Named = Field(default_factory=_Named)
    agent: _Agent = Field(default_factory=_Agent)
    verifier: _Verifier = Field(default_factory=_Verifier)
    environment: _Environment = Field(default_factory=_Environment)
    solution: _Solution = Field(default_factory=_Solution)
    steps: list[Any] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HarborTask:
    """One task directory."""

    folder: Path
    file: TaskFile
    instruction: str
    work_folder: str
    """Where the task thinks its work tree is."""

    @classmethod
    def read(cls, folder: Path) -> HarborTask:
        """Read a directory.

        Raises:
            SuiteFault: it is none, or asks for what is not done here.
        """
        try:
            file = TaskFile.model_validate(tomllib.loads((folder / MARK).read_text(encoding="utf-8")))
            instruction = (folder / "instruction.md").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as fault:
            cause = " ".join(str(fault).split())[:300]
            raise SuiteFault(
                f"{folder} is no task directory of Harbor ({cause}); it needs {MARK} and instruction.md"
            ) from fault
        if not instruction:
            raise SuiteFault(f"{folder / 'instruction.md'} is empty; write there what is to be done")
        if file.steps:
            raise SuiteFault(f"{folder} has several steps, which Harbor alone does: harbor run --path {folder}")
        if not (folder / "tests" / "test.sh").is_file():
            raise SuiteFault(f"{folder} has no tests/test.sh, so nothing would tell whether it was done")
        return cls(folder, file, instruction, _work_folder(folder, file))

    def lay_out(self, tree: Path) -> None:
        """Write the work tree as the environment's files make it.

        Raises:
            SuiteFault: its Dockerfile runs commands.
        """
        tree.mkdir(parents=True)
        source = self.folder / "environment"
        dockerfile = source / "Dockerfile"
        if not dockerfile.is_file():
            if source.is_dir():
                shutil.copytree(source, tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_DEFINITIONS))
            return
        for word, rest in _instructions(dockerfile):
            if word not in _HARMLESS:
                raise SuiteFault(
                    f"{dockerfile} has {word}, which only a build does: build it, and name it in docker_image of {MARK}"
                )
            if word == "COPY":
                self._copy(rest, source, tree)

    def _copy(self, rest: str, source: Path, tree: Path) -> None:
        try:
            *origins, target = (word for word in shlex.split(rest) if not word.startswith("--"))
        except ValueError as fault:
            raise SuiteFault(f"{source / 'Dockerfile'} has COPY {rest}, which says not what to where") from fault
        place = tree / _relative(target, self.work_folder)
        for name in origins:
            origin = (source / name).resolve()
            if not origin.is_relative_to(source.resolve()) or not origin.exists():
                raise SuiteFault(f"{source / 'Dockerfile'} copies {name}, which is not in {source}")
            if origin.is_dir():
                shutil.copytree(origin, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_DEFINITIONS))
            else:
                into = place / origin.name if target.endswith(("/", ".")) or len(origins) > 1 else place
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, into)

    def add(self, name: str, tree: Path) -> Path:
        """Put `tests/` or `solution/` into the tree, its texts with the places there; the folder."""
        own = tree / _OWN
        if own.is_symlink() or own.is_file():
            own.unlink()  # an agent may have put it there, to have files written elsewhere
        remove_tree(own)
        target = own / name
        shutil.copytree(self.folder / name, target)
        (tree / _OWN / "logs" / "verifier").mkdir(parents=True, exist_ok=True)
        for path in target.rglob("*"):
            if path.is_file() and not path.is_symlink():
                _rewrite(path, tree, self.work_folder)
        return target

    async def verify(self, box: Sandbox, tree: Path) -> tuple[float, str]:
        """Run the tests; the reward, and what they said.

        Raises:
            SandboxError: the box failed.
        """
        script = self.add("tests", tree) / "test.sh"
        done = await box.exec(
            ["bash", str(script)], cwd=tree, env=self.file.verifier.env, timeout_s=self.file.verifier.timeout_sec
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        return read_reward(tree / _OWN / "logs" / "verifier"), said

    async def solve(self, box: Sandbox, tree: Path) -> None:
        """Run the reference solution.

        Raises:
            SandboxError: the box failed.
        """
        script = self.add("solution", tree) / "solve.sh"
        await box.exec(
            ["bash", str(script)], cwd=tree, env=self.file.solution.env, timeout_s=self.file.agent.timeout_sec
        )

    @property
    def variables(self) -> dict[str, str]:
        """What commands see."""
        return dict(self.file.environment.env)


class RewardFault(Exception):
    """The tests left no reward, or one that is no number."""


def read_reward(folder: Path) -> float:
    """The reward in a verifier's folder: `reward.json` before `reward.txt`; of several numbers the least.

    Raises:
        RewardFault: there is none.
    """
    path = next((folder / name for name in ("reward.json", "reward.txt") if (folder / name).is_file()), None)
    if path is None or path.is_symlink():
        raise RewardFault("the tests wrote no reward")
    with path.open("rb") as file:
        text = file.read(_MAX_REWARD_BYTES).decode("utf-8", "replace")
    try:
        found = json.loads(text) if path.suffix == ".json" else float(text)
        numbers = list(found.values()) if isinstance(found, dict) else [found]
        values = [float(number) for number in numbers if not isinstance(number, str)]
    except (ValueError, TypeError, OverflowError, RecursionError) as fault:
        raise RewardFault(f"{path.name} holds no number: {text[:60]!r}") from fault
    if not values or len(values) != len(numbers) or not all(map(math.isfinite, values)):
        raise RewardFault(f"{path.name} holds no finite number: {text[:60]!r}")
    return min(values)


def harbor_suite(folder: Path) -> Suite:
    """A task directory, or a folder of them, as a suite.

    Raises:
        SuiteFault: there is none in it, or one cannot be read.
    """
    folders = [folder] if (folder / MARK).is_file() else sorted(path.parent for path in folder.glob(f"*/{MARK}"))
    if not folders:
        raise SuiteFault(f"{folder} holds no task directory of Harbor (none has a {MARK})")
    tasks = [
        {
            "id": re.sub(r"[^a-z0-9]+", "-", one.name.lower()).strip("-")[:MAX_NAME_BYTES] or "task",
            "prompt": HarborTask.read(one).instruction,
            "expect": {},
            "folder": one.resolve(),
        }
        for one in folders
    ]
    name = os.fsencode(f"harbor {folder.resolve().name}")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    try:
        return Suite.model_validate({"suite": name, "kind": "harbor", "tasks": tasks})
    except ValidationError as fault:
        cause = fault.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SuiteFault(f"{folder}: {cause}; rename its folder, or try it alone") from fault


def _work_folder(folder: Path, file: TaskFile) -> str:
    if file.environment.workdir:
        return file.environment.workdir
    dockerfile = folder / "environment" / "Dockerfile"
    found = [rest for word, rest in _instructions(dockerfile) if word == "WORKDIR"] if dockerfile.is_file() else []
    return found[-1].strip() if found else "/app"


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    try:
        text = re.sub(r"\\\n", " ", dockerfile.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise SuiteFault(f"{dockerfile} cannot be read ({' '.join(str(fault).split())}); correct it") from fault
    lines = [line.strip() for line in text.splitlines()]
    parted = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(word.upper(), rest.strip()) for word, _, rest in parted]


def _relative(target: str, work_folder: str) -> Path:
    path = PurePosixPath(work_folder, target)
    if not path.is_relative_to(work_folder) or ".." in path.parts:
        raise SuiteFault(f"the Dockerfile copies to {target}, outside of {work_folder}: build it, and name its image")
    return Path(path.relative_to(work_folder))


def _rewrite(path: Path, tree: Path, work_folder: str) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    places = {f"/{name}": str(tree / _OWN / name) for name in _ROOTS} | {work_folder.rstrip("/"): str(tree)}
    whole = "|".join(re.escape(place) for place in places if place)
    text = re.sub(rf"(?<![\w./-])({whole})(?![\w.-])", lambda found: places[found[1]], text)
    path.write_text(text, encoding="utf-8")
