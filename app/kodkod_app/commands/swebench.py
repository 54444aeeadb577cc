"""`kodkod swebench`: issues solved unattended, graded, counted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kodkod_app.commands.fix import MODEL_HELP, agent_flags
from kodkod_app.commands.groups import DefaultGroup
from kodkod_sandbox.base import SandboxKind

if TYPE_CHECKING:
    from kodkod_app.settings import Settings
    from kodkod_app.swebench.folder import Asked
    from kodkod_app.swebench.rows import Row

_CommandT = TypeVar("_CommandT", bound=Callable[..., Any])
_DATASET = click.argument("dataset", type=click.Path(path_type=Path))
_SANDBOX = click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]")
_SPLIT = click.option("--split", default="test", show_default=True, help="Of a folder: which file.")
_CLONES = click.option(
    "--clones", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with local clones, for instances without an image.",
)  # fmt: skip
_ENV = click.option(
    "--env", metavar="DIR", type=click.Path(path_type=Path), help="Python environment for the tests of clones."
)


def _output(help_text: str) -> Callable[[_CommandT], _CommandT]:
    return click.option(
        "-o", "--output", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), required=True, help=help_text
    )


@click.group(name="swebench", cls=DefaultGroup)
def command() -> None:
    """Solve issues of a SWE-bench data set unattended: kodkod swebench DATASET -o DIR.

    DATASET is a local file of JSON lines, JSON or parquet. Nothing is fetched from a hub.
    """


@command.command(name="run")
@_DATASET
@_output("For predictions, records and trajectories. A folder that holds some of the attempts is gone on with.")
@click.option("--instance", "instances", metavar="ID", multiple=True, help="This one; repeatable.")
@click.option("--filter", "pattern", metavar="REGEX", default="", help="Those whose id begins so.")
@click.option("--slice", "part", metavar="START:STOP", default="", help="Of what the others leave, as in Python.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Attempts at a time.")
@click.option("--candidates", type=click.IntRange(1), help="Ways that are tried in one attempt. [default: 1]")
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True, help="Attempts at each instance.")
@click.option("--redo", is_flag=True, help="Do again what is recorded.")
@click.option("--redo-faults", is_flag=True, help="Do again what ended by a fault: no image, no box.")
@click.option("--name", help="Of the model in the predictions. [default: kodkod and the model's folder]")
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--max-turns", type=int, help="Turns of the model in one attempt.")
@click.option("--max-tokens", type=int, help="Tokens the model may write in one attempt.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Time for one attempt.")
@click.option("--seed", type=int, help="Of the first run's draws; each later run has one more.")
@click.option("--temperature", type=float, help="0 is greedy. [default: 0]")
@_SPLIT
@_SANDBOX
@_CLONES
@_ENV
def run(dataset: Path, output: Path, instances: tuple[str, ...], **flags: Any) -> int:
    """Attempt every instance; write predictions. This is what `kodkod swebench DATASET -o DIR` does.

    Exit codes: 0 all attempted, 1 some ended by a fault, 2 usage, 4 no model, 130 interrupted. Killed or interrupted,
    the same command goes on where it was.
    """
    from kodkod_app.swebench.rows import Selection, read_rows

    rows = Selection(instances, flags["pattern"], flags["part"]).of(read_rows(dataset, flags["split"]))
    from kodkod_app.output_folder import make_output

    output = output.resolve()
    make_output(output)
    settings = _settings(output, flags)
    asked = _asked(dataset, rows, settings, flags)
    return _solve(rows, settings, asked, output, flags)


def _settings(folder: Path, flags: dict[str, Any]) -> Settings:
    from kodkod_app.bootstrap import absolute_name, require_model
    from kodkod_app.settings import load_settings

    said = {
        "model": flags["model"] and absolute_name(flags["model"]),
        "sandbox": flags["sandbox"],
        "candidates": {"count": flags["candidates"], "at_once": 1},
        "agent": agent_flags(flags),
    }
    settings = load_settings(folder, trusted=False, environment=os.environ, flags=said)
    return settings.model_copy(update={"model": require_model(settings.model)})


def _asked(dataset: Path, rows: list[Row], settings: Settings, flags: dict[str, Any]) -> Asked:
    import platform
    from importlib.metadata import version

    from kodkod_app.swebench.folder import Asked, fingerprint

    model = Path(settings.model or "").name
    return Asked(
        dataset=dataset.name,
        dataset_sha256=fingerprint(rows),
        instances=tuple(row.instance_id for row in rows),
        model=model,
        name=flags["name"] or f"kodkod-{model}",
        candidates=settings.candidates.count,
        seed=settings.agent.seed,
        temperature=settings.agent.temperature,
        max_turns=settings.agent.max_turns,
        max_tokens=settings.agent.max_tokens,
        timeout_s=settings.agent.timeout_s,
        sandbox=str(settings.sandbox),
        workers=flags["workers"],
        device=settings.engine.device,
        machine={"processors": os.cpu_count() or 1, "machine": platform.machine()},
        version=version("kodkod"),
    )


def _solve(rows: list[Row], settings: Settings, asked: Asked, folder: Path, flags: dict[str, Any]) -> int:
    from kodkod_app.bootstrap import open_model
    from kodkod_app.swebench.folder import claim, told_statuses, write_statuses
    from kodkod_app.swebench.grounds import Grounds
    from kodkod_app.swebench.records import Attempts
    from kodkod_app.swebench.running import Runner, RunPlan

    claim(folder, asked)
    attempts = Attempts(folder)
    grounds = Grounds(settings.sandbox, flags["clones"], flags["env"])
    plan = RunPlan(
        rows, flags["runs"], flags["workers"], settings, grounds, folder, asked.name,
        redo=flags["redo"], redo_faults=flags["redo_faults"],
    )  # fmt: skip
    model = open_model(settings.model, settings.engine)
    try:
        asyncio.run(Runner(plan, model, attempts, lambda text: click.echo(text, err=True)).run())
    finally:
        model.engine.close()
        counts = write_statuses(list(attempts), folder)
    click.echo(told_statuses(counts))
    click.echo(f"predictions: {folder / 'preds.jsonl'}", err=True)
    return 1 if any(attempt.is_fault for attempt in attempts) else 0


@command.command()
@_DATASET
@click.argument("predictions")
@_output("For verdicts and the grader's own reports and logs.")
@click.option("--docker/--no-docker", default=None, help="[default: where a daemon answers and has the images]")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Instances at a time.")
@click.option("--timeout", type=click.IntRange(1), default=1800, show_default=True, help="Seconds for one's tests.")
@_SPLIT
@_SANDBOX
@_CLONES
@_ENV
def grade(dataset: Path, predictions: str, output: Path, **flags: Any) -> int:
    """Grade predictions by the official `swebench` package: with its containers, or in plain folders without Docker.

    PREDICTIONS is a file (.jsonl, .json), the folder of a run (all its runs are graded), or `gold` or `empty`, the
    two controls. Given the run's own folder as -o too, `kodkod swebench report` finds the verdicts.
    """
    from kodkod_app.swebench.grading import GradePlan, grade_all
    from kodkod_app.swebench.grounds import Grounds
    from kodkod_app.swebench.rows import read_rows

    kind = SandboxKind(flags["sandbox"] or SandboxKind.AUTO)
    plan = GradePlan(
        rows=read_rows(dataset, flags["split"]),
        folder=output.resolve(),
        grounds=Grounds(kind, flags["clones"], flags["env"]),
        workers=flags["workers"],
        timeout_s=flags["timeout"],
        docker=flags["docker"],
    )
    found = grade_all(plan, predictions, lambda text: click.echo(text, err=True))
    for line in found:
        click.echo(line)
    return 0


@command.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument(
    "other", metavar="[DIR2]", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--output-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def report(folder: Path, other: Path | None, output_format: str) -> int:
    """Count what a run came to; beside DIR2, compare both on the instances they share.

    Writes report.json, report.md and report.png into DIR, and prints the first or the second.
    """
    import json

    from kodkod_app.swebench.report import told, write_report

    found = write_report(folder, other)
    click.echo(json.dumps(found, indent=1) if output_format == "json" else told(found))
    return 0


@command.command()
@_output("For dataset.jsonl.")
@click.option(
    "--package", "packages", metavar="NAME==VERSION", multiple=True,
    help="A release to break; repeatable. [default: those that nothing was learnt from]",
)  # fmt: skip
@click.option("--instances", type=click.IntRange(1), default=20, show_default=True, help="In all packages together.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the faults.")
@click.option("--images", is_flag=True, help="Build an image for each instance in the local Docker daemon.")
@_SANDBOX
def build(output: Path, packages: tuple[str, ...], **flags: Any) -> int:
    """Make a data set: releases of the package index, each broken by a seeded fault that its own tests show."""
    from kodkod_app.repair_eval.packages import chosen_packages, known_packages
    from kodkod_app.swebench.building import BuildPlan, build_dataset

    plan = BuildPlan(
        packages=chosen_packages(packages, known_packages()),
        instances=flags["instances"],
        seed=flags["seed"],
        folder=output.resolve(),
        kind=SandboxKind(flags["sandbox"] or SandboxKind.AUTO),
        images=flags["images"],
    )
    path = asyncio.run(build_dataset(plan, lambda text: click.echo(text, err=True)))
    click.echo(path)
    return 0
