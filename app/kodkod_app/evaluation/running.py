"""All trials of some suites, side by side. What is recorded is not done again."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kodkod_agent.errors import AgentError
from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.agents import AgentKind, scripted_model, turns_of
from kodkod_app.evaluation.checks import check_database, check_files, check_functions, check_talk
from kodkod_app.evaluation.coding import open_harbor_workshop, open_workshop, work
from kodkod_app.evaluation.desk import Desk, ToolBroken
from kodkod_app.evaluation.dialogue import Dialogue
from kodkod_app.evaluation.harbor_tasks import HarborTask, RewardFault
from kodkod_app.evaluation.records import Trial, TrialsKept, trial_key
from kodkod_app.evaluation.suite import Kind, Suite, Task
from kodkod_app.evaluation.transcript import Transcript
from kodkod_app.evaluation.users import ModelUser, ScriptedUser, Talker
from kodkod_app.own_git import OwnGitFault
from kodkod_app.python_environment import EnvironmentFault
from kodkod_app.settings import Settings
from kodkod_engine.api import SamplingParams
from kodkod_engine.errors import EngineClosed, EngineError
from kodkod_sandbox.errors import SandboxError

_FAULTS = (EngineError, SandboxError, AgentError, EnvironmentFault, OwnGitFault, ToolBroken, OSError)
"""Those of one trial; the others go on."""


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What is wanted."""

    suites: Sequence[Suite]
    trials: int
    workers: int
    agent: AgentKind
    settings: Settings
    folder: Path
    pattern: str = ""
    """Part of the ids of the tasks that are meant."""
    user_is_model: bool = False
    redo_faults: bool = False

    def jobs(self, done: TrialsKept) -> list[Job]:
        """What is left to do. A task that was changed since is tried anew."""
        tasks = [
            (suite, task, suite.definition_of(task))
            for suite in self.suites
            for task in suite.tasks
            if self.pattern in task.id
        ]
        return [
            Job(suite, task, number, self.settings.agent.seed + number - 1, definition)
            for number in range(1, self.trials + 1)
            for suite, task, definition in tasks
            if self._is_wanted(done.get(trial_key(suite.suite, task.id, number)), definition)
        ]

    def _is_wanted(self, trial: Trial | None, definition: str) -> bool:
        if trial is None or trial.definition not in ("", definition):
            return True
        return self.redo_faults and trial.is_fault


@dataclass(frozen=True, slots=True)
class Job:
    """One trial to be done."""

    suite: Suite
    task: Task
    number: int
    seed: int
    definition: str


@dataclass(slots=True)
class Evaluation:
    """One invocation. `model` is None for agents that need none."""

    plan: TrialPlan
    model: Model | None
    kept: TrialsKept
    tell: Callable[[str], None]
    _done: int = 0
    _total: int = 0
    _started: float = field(default_factory=time.monotonic)

    async def run(self) -> None:
        """Do all that is left.

        Raises:
            EngineClosed: the engine is gone; what was recorded stays.
            SuiteFault: a suite says what cannot be.
        """
        jobs = deque(self.plan.jobs(self.kept))
        self._total = len(jobs)
        if recorded := len(self.kept):
            self.tell(f"{recorded} recorded already, {self._total} left")
        (self.plan.folder / "transcripts").mkdir(parents=True, exist_ok=True)
        workers = [asyncio.create_task(self._work(jobs)) for _ in range(min(self.plan.workers, len(jobs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, jobs: deque[Job]) -> None:
        while jobs:
            trial = await self._trial(jobs.popleft())
            self.kept.add(trial)
            self._done += 1
            left_s = (time.monotonic() - self._started) / self._done * (self._total - self._done)
            what = "passed" if trial.passed else f"failed: {'; '.join(trial.reasons)[:200]}"
            self.tell(f"{self._done} of {self._total}  {trial.key}: {what}  ({left_s:.0f} s left)")

    async def _trial(self, job: Job) -> Trial:
        transcript, started = Transcript(), time.monotonic()
        is_fault = False
        try:
            async with self._model_of(job) as model:
                reasons = await self._do(job, model, transcript)
        except EngineClosed:
            raise
        except _FAULTS as fault:
            is_fault, reasons = True, [f"{type(fault).__name__}: {' '.join(str(fault).split())}"]
            transcript.exit_status = type(fault).__name__
        name = f"{job.suite.suite.replace(' ', '-')}.{job.task.id}.{job.number}.json"
        (self.plan.folder / "transcripts" / name).write_text(transcript.to_json(), encoding="utf-8")
        return Trial(
            suite=job.suite.suite,
            task=job.task.id,
            category=job.task.category,
            number=job.number,
            seed=job.seed,
            definition=job.definition,
            passed=not reasons,
            reasons=tuple(reasons),
            exit_status=transcript.exit_status,
            is_fault=is_fault,
            turns=transcript.turns,
            calls=sum(not call.by_user for call in transcript.calls),
            malformed_calls=transcript.malformed_calls,
            prompt_tokens=transcript.prompt_tokens,
            reused_tokens=transcript.reused_tokens,
            generated_tokens=transcript.generated_tokens,
            seconds=time.monotonic() - started,
        )

    @asynccontextmanager
    async def _model_of(self, job: Job) -> AsyncIterator[Model]:
        """The one model of all, or a scripted one of the task's own."""
        if self.model is not None:
            yield self.model
            return
        scripted = scripted_model(turns_of(self.plan.agent, job.suite, job.task), str(self.plan.agent))
        try:
            yield scripted
        finally:
            scripted.engine.close()

    async def _do(self, job: Job, model: Model, transcript: Transcript) -> list[str]:
        """What was not as it should be."""
        if job.suite.kind is Kind.CODING:
            return await self._code(job, model, transcript)
        if job.suite.kind is Kind.HARBOR:
            return await self._harbor(job, model, transcript)
        world = job.suite.world_of(job.task)
        specs = [tool.spec for tool in world.tools]
        agent = self.plan.settings.agent
        sampling = SamplingParams(
            temperature=agent.temperature, top_p=agent.top_p, seed=job.seed, max_tokens=agent.max_turn_tokens
        )
        policy = job.suite.policy_of(job.task)
        dialogue = Dialogue.begin(model, specs, policy, sampling, transcript, job.task.max_turns)
        if job.suite.kind is Kind.FUNCTIONS:
            await dialogue.ask(job.task.prompt)
            return [*check_functions(job.task, job.suite, transcript), *check_talk(job.task.expect, transcript)]
        desk = Desk(world, job.suite.folder)
        try:
            await dialogue.hold(self._talker(job, model, desk, transcript), desk)
            database = check_database(job.task.expect, desk, job.task, job.suite)
            return [*check_talk(job.task.expect, transcript), *database]
        finally:
            desk.close()

    def _talker(self, job: Job, model: Model, desk: Desk, transcript: Transcript) -> Talker:
        user = job.task.user
        assert user is not None, "looked at when the suite was read"
        if self.plan.user_is_model:
            return ModelUser(user, job.suite.world_of(job.task).user_tools, desk, transcript, model, job.seed)
        return ScriptedUser(user, desk, transcript)

    async def _code(self, job: Job, model: Model, transcript: Transcript) -> list[str]:
        settings = self._settings(job)
        world = job.suite.world_of(job.task)
        async with open_workshop(world, settings.sandbox, settings.env) as workshop:
            before = _texts(workshop.tree, job.task)
            await work(workshop, model, settings, job.task.prompt, transcript)
            files = await check_files(job.task.expect, workshop, before)
        return [*check_talk(job.task.expect, transcript), *files]

    async def _harbor(self, job: Job, model: Model, transcript: Transcript) -> list[str]:
        """By the tests of the task directory; a reward below 1 is not enough."""
        assert job.task.folder is not None, "set when the directory was read"
        settings = self._settings(job)
        task = await asyncio.to_thread(HarborTask.read, job.task.folder)
        async with open_harbor_workshop(task, settings.sandbox, settings.env) as workshop:
            if self.plan.agent is AgentKind.REFERENCE:
                async with workshop.box() as box:
                    await task.solve(box, workshop.tree)
            else:
                await work(workshop, model, settings, task.instruction, transcript)
            try:
                async with workshop.box() as box:
                    reward, said = await task.verify(box, workshop.tree)
            except RewardFault as fault:
                return [str(fault)]
        return [] if reward >= 1 else [f"reward {reward:g}: {' '.join(said.split())[-300:]}"]

    def _settings(self, job: Job) -> Settings:
        """Of one run of the agent: nobody is asked, and the task's own checks are the only tests."""
        update = {"attended": True, "verify": False, "baseline_tests": False}
        limits = {"seed": job.seed, "max_turns": job.task.max_turns}
        settings = self.plan.settings
        return settings.model_copy(update={"agent": settings.agent.model_copy(update={**update, **limits})})


def _texts(tree: Path, task: Task) -> dict[str, str]:
    """Of files that must stay as they are."""
    names = [name for name, check in task.expect.files.items() if check.unchanged]
    return {name: (tree / name).read_text(encoding="utf-8") for name in names if (tree / name).is_file()}
