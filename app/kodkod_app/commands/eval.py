"""`kodkod eval`: how well a model does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodkod_app.commands.fix import MODEL_HELP
from kodkod_app.commands.groups import DefaultGroup
from kodkod_sandbox.base import SandboxKind

if TYPE_CHECKING:
    from kodkod_app.repair_eval.evaluation import EvaluationOptions
    from kodkod_app.settings import Settings

AGENTS = ("model", "random", "reference", "nothing", "wrong")
"""The names of `AgentKind`, which help would wait for the agent to be read."""


@click.group(name="eval", cls=DefaultGroup)
def command() -> None:
    """Measure how well a model does: kodkod eval SUITE -o DIR. Results are published as they are.

    SUITE is one of those that come along (`kodkod eval list`), a .yaml or .py file, or a task directory of Harbor.
    """


@command.command(name="run")
@click.argument("suites", metavar="SUITE...", nargs=-1, required=True)
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), required=True,
    help="For records, transcripts, report and junit.xml. A folder with records is gone on with.",
)  # fmt: skip
@click.option("--trials", type=click.IntRange(1), default=1, show_default=True, help="Of each task.")
@click.option("--task", "pattern", metavar="TEXT", default="", help="Only tasks with this in their id.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Trials at a time.")
@click.option("--redo-faults", is_flag=True, help="Do again what ended by a fault: no environment, no box.")
@click.option(
    "--agent", type=click.Choice(AGENTS), default=AGENTS[0], show_default=True,
    help="Who is evaluated: the model; one with random weights; or what each task brings along: its reference "
    "solution, nothing at all, a planted wrong solution.",
)  # fmt: skip
@click.option("--user", type=click.Choice(["script", "model"]), default="script", show_default=True, help="Who asks.")
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--seed", type=int, help="Of the first trial's draws; each later one has one more.")
@click.option("--temperature", type=float, help="0 is greedy. [default: 0]")
@click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]")
@click.option("--env", metavar="DIR", type=click.Path(path_type=Path), help="Python environment of coding tasks.")
def run(suites: tuple[str, ...], output: Path, **flags: Any) -> int:
    """Try every task of some suites. This is what `kodkod eval SUITE -o DIR` does.

    Exit codes: 0 all tried, 1 some ended by a fault, 2 usage, 4 no model, 130 interrupted. Whether tasks passed is in
    the report, not in the exit code.
    """
    from kodkod_app.evaluation.invocation import evaluate

    return evaluate(suites, output.resolve(), flags, lambda text: click.echo(text, err=True), click.echo)


@command.command(name="list")
def list_suites() -> int:
    """The suites that come along."""
    from kodkod_app.evaluation.suite_files import bundled_suites, load_suite

    for name in bundled_suites():
        suite = load_suite(name)
        click.echo(f"{name:<18} {len(suite.tasks):>3} tasks  {' '.join(suite.description.split())}")
    return 0


@command.command()
@click.option(
    "--package",
    "packages",
    metavar="NAME==VERSION",
    multiple=True,
    help="A release to break; repeatable. [default: those that nothing was learnt from]",
)
@click.option("--faults", type=click.IntRange(1), default=200, show_default=True, help="In all packages together.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the faults and of the blind search.")
@click.option("--candidates", type=click.IntRange(1), default=8, show_default=True, help="Edits tried for each fault.")
@click.option("--workers", type=click.IntRange(1), help="Faults at a time. [default: one for each processor]")
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]")
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(file_okay=False, path_type=Path), required=True,
    help="For records, trajectories, report and plots. A folder with records is gone on with.",
)  # fmt: skip
def repair(packages: tuple[str, ...], faults: int, output: Path, **flags: Any) -> int:
    """Break published packages by seeded faults, have each repaired, and count.

    Packages and an environment for their tests are fetched from the package index at the first use. Beside the agent
    two controls work on the same faults: nothing is changed, and inverse edits are tried blindly.
    """
    from kodkod_app.output_folder import make_output
    from kodkod_app.repair_eval.evaluation import EvaluationOptions, pinned_packages

    chosen = pinned_packages(packages)
    make_output(output)
    options = EvaluationOptions(
        packages=chosen,
        faults=faults,
        seed=flags["seed"],
        workers=flags["workers"] or os.cpu_count() or 1,
        settings=_settings(output, flags),
        folder=output.resolve(),
    )
    _evaluate(options)
    return 0


def _settings(folder: Path, flags: dict[str, Any]) -> Settings:
    from kodkod_app.bootstrap import absolute_name, require_model
    from kodkod_app.settings import load_settings

    said = {
        "model": flags["model"] and absolute_name(flags["model"]),
        "sandbox": flags["sandbox"],
        "candidates": {"count": flags["candidates"], "at_once": 1},
    }
    settings = load_settings(folder, trusted=False, environment=os.environ, flags=said)
    return settings.model_copy(update={"model": require_model(settings.model)})


def _evaluate(options: EvaluationOptions) -> None:
    from kodkod_app.bootstrap import open_model
    from kodkod_app.output_folder import claim_output
    from kodkod_app.repair_eval.evaluation import Evaluation
    from kodkod_app.repair_eval.plots import write_plots
    from kodkod_app.repair_eval.records import Records
    from kodkod_app.repair_eval.report import told, write_reports

    asked = {**_setting(options), "model": options.settings.model}
    claim_output(options.folder, asked, ("model", "candidates", "seed"), "faults tried")
    records = Records(options.folder / "records.jsonl")
    model = open_model(options.settings.model, options.settings.engine)
    try:
        asyncio.run(Evaluation(options, model, records, lambda text: click.echo(text, err=True)).run())
    finally:
        model.engine.close()
        if len(records):
            found = write_reports(records, _setting(options), options.folder)
            if not write_plots(found, options.folder):
                click.echo("no plots: matplotlib is not installed", err=True)
            click.echo(told(found))


def _setting(options: EvaluationOptions) -> dict[str, Any]:
    return {
        "model": Path(options.settings.model or "").name,
        "candidates": options.settings.candidates.count,
        "faults wanted": options.faults,
        "seed": options.seed,
        "sandbox": str(options.sandbox),
        "workers": options.workers,
    }
