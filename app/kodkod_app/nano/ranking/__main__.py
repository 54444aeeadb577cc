"""Learn and measure the ranking of edits, and what a model adds to it: `python -m kodkod_app.nano.ranking COMMAND`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodkod_app.nano import corpus
from kodkod_app.nano.packages import known_packages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kodkod_app.nano.ranking.cases import CaseArrays

_file = click.Path(dir_okay=False, path_type=Path)
_MOST = (1, 3, 8, 32)


@click.group()
def main() -> None:
    """Which edits are plausible: learnt from planted faults whose repair is known."""


@main.command()
@click.option("-o", "--output", type=_file, required=True, help="The cases to write.")
@click.option("--per-package", type=click.IntRange(1), default=500, show_default=True)
@click.option("--seconds", type=float, help="No further package is begun after so long.")
@click.option("--validation", is_flag=True, help="From the packages kept aside for validation.")
@click.option("--seed", type=int, default=0, show_default=True)
def simulated(output: Path, per_package: int, seconds: float | None, seed: int, *, validation: bool) -> None:
    """Plant faults in functions of the corpus; no test is run."""
    from kodkod_app.nano.ranking.cases import Cases, simulate

    known = {spec.name for spec in known_packages()}
    packages = [one for one in corpus.without(corpus.corpus_packages(), known) if one.validation == validation]
    wheels = corpus.fetch(packages, corpus.wheels_folder())
    cases, started = Cases(), time.monotonic()
    for package in packages:
        if seconds is not None and time.monotonic() - started > seconds:
            break
        cases.extend(simulate(corpus.modules(package.name, wheels[package.name], set()), seed, per_package))
        click.echo(f"{package.name}: {len(cases):,} cases, {len(cases) / (time.monotonic() - started):.0f} a second")
    cases.write(output)


@main.command()
@click.option("-o", "--output", type=_file, required=True, help="The cases to write.")
@click.option("--package", "names", multiple=True, help="Only this one; repeatable.")
@click.option("--faults", type=click.IntRange(1), default=200, show_default=True, help="Of each package, at most.")
@click.option("--seconds", type=float, default=120.0, show_default=True, help="For each package, at most.")
@click.option("--held-out", is_flag=True, help="Of the packages that are only measured on.")
@click.option("--seed", type=int, default=0, show_default=True)
def real(output: Path, names: tuple[str, ...], faults: int, seconds: float, seed: int, *, held_out: bool) -> None:
    """Break packages and run their own tests."""
    from kodkod_app.nano.packages import Role, make_ready
    from kodkod_app.nano.ranking.cases import Cases, play
    from kodkod_app.nano.workshop import prepare

    cases = Cases()
    for spec in known_packages(Role.HELD_OUT if held_out else Role.TRAIN):
        if names and spec.name not in names:
            continue
        with prepare(make_ready(spec)) as workshop:
            deadline = time.monotonic() + seconds
            for found in play(workshop, seed, faults):
                cases.extend(found)
                if time.monotonic() > deadline:
                    break
        click.echo(f"{spec.name}: {len(cases):,} cases")
        cases.write(output)


@main.command()
@click.option("-s", "--simulated", "simulated_files", type=_file, multiple=True, required=True)
@click.option("-r", "--real", "real_files", type=_file, multiple=True, required=True)
@click.option("-o", "--output", type=_file, required=True, help="The weights to write.")
@click.option("--epochs", type=click.IntRange(1), default=2, show_default=True, help="Over the simulated cases.")
@click.option("--seed", type=int, default=0, show_default=True)
def fit(simulated_files: tuple[Path, ...], real_files: tuple[Path, ...], output: Path, epochs: int, seed: int) -> None:
    """Learn the weights; tells how they rank each package when the clues were learnt from the others."""
    from kodkod_app.nano.ranking.cases import CaseArrays
    from kodkod_app.nano.ranking.fit import code_scores, fit_clues, fit_code, left_out_ranks
    from kodkod_app.nano.ranking.weights import Weights

    found = CaseArrays.read(real_files)
    code = fit_code(CaseArrays.read(simulated_files), epochs, seed)
    scores = code_scores(found, code)
    click.echo(json.dumps(_told(found, left_out_ranks(found, code, seed=seed)), indent=1))
    Weights(code, *fit_clues(found, scores, seed=seed)).write(output)


@main.command()
@click.option("-w", "--weights", "weights_file", type=_file, help="[default: the bundled ones]")
@click.argument("cases", type=_file, nargs=-1, required=True)
def measure(weights_file: Path | None, cases: tuple[Path, ...]) -> None:
    """How often the repair is among the first edits, as JSON; beside it a random order."""
    from kodkod_app.nano.ranking.cases import CaseArrays
    from kodkod_app.nano.ranking.fit import ranks
    from kodkod_app.nano.ranking.weights import Weights

    found = CaseArrays.read(cases)
    weights = Weights.bundled() if weights_file is None else Weights.read(weights_file)
    click.echo(json.dumps(_told(found, ranks(found, weights)), indent=1))


@main.command()
@click.option("-o", "--output", type=_file, required=True, help="The scenes to write, one a line.")
@click.option("--package", "names", multiple=True, help="Only this one; repeatable.")
@click.option("--faults", type=click.IntRange(1), default=100, show_default=True, help="Of each package, at most.")
@click.option("--seconds", type=float, default=120.0, show_default=True, help="For each package, at most.")
@click.option("--seed", type=int, default=0, show_default=True)
def scenes(output: Path, names: tuple[str, ...], faults: int, seconds: float, seed: int) -> None:
    """Break packages that are learnt from and run their own tests; keep what the agent would see."""
    from kodkod_app.nano.packages import Role, make_ready
    from kodkod_app.nano.ranking.scenes import Scene, play_scenes, write_scenes
    from kodkod_app.nano.workshop import prepare

    def found() -> Iterator[Scene]:
        for spec in known_packages(Role.TRAIN):
            if not names or spec.name in names:
                with prepare(make_ready(spec)) as workshop:
                    deadline = time.monotonic() + seconds
                    for scene in play_scenes(workshop, seed, faults):
                        yield scene
                        if time.monotonic() > deadline:
                            break

    write_scenes(found(), output)


@main.command()
@click.option("-m", "--model", "name", help="The checkpoint that is asked. [default: the one that comes along]")
@click.option("-w", "--weights", "weights_file", type=_file, help="Of the ranking. [default: the bundled ones]")
@click.option("--most", type=click.IntRange(1), default=12, show_default=True, help="Edits that are named in a scene.")
@click.option("-o", "--output", type=_file, required=True, help="The judged scenes to write, one a line.")
@click.argument("files", metavar="SCENES...", type=_file, nargs=-1, required=True)
def judge(name: str | None, weights_file: Path | None, most: int, output: Path, files: tuple[Path, ...]) -> None:
    """What ranking and model say of the most plausible edits of each scene."""
    import asyncio

    from kodkod_app.bootstrap import open_model
    from kodkod_app.nano.ranking.ranker import PlausibleEdits
    from kodkod_app.nano.ranking.scenes import judge as judge_scene
    from kodkod_app.nano.ranking.scenes import read_scenes, write_judged
    from kodkod_app.nano.ranking.weights import Weights
    from kodkod_engine.config import EngineConfig

    found = read_scenes(files)
    ranker = PlausibleEdits(Weights.bundled() if weights_file is None else Weights.read(weights_file))
    model = open_model(name, EngineConfig())
    try:
        write_judged((asyncio.run(judge_scene(scene, model, ranker, most)) for scene in found), output)
    finally:
        model.engine.close()


@main.command()
@click.option("--view", "of_view", type=float, multiple=True, default=(0, 0.1, 0.2), show_default=True)
@click.option("--edit", "of_edit", type=float, multiple=True, default=(0, 0.1, 0.2, 0.3, 0.5), show_default=True)
@click.argument("files", metavar="JUDGED...", type=_file, nargs=-1, required=True)
def share(of_view: tuple[float, ...], of_edit: tuple[float, ...], files: tuple[Path, ...]) -> None:
    """How well ranking and model together find the repair, by the model's shares of view and edit, as JSON."""
    from itertools import product

    from kodkod_app.nano.ranking.scenes import read_judged, told

    judged = [one for path in files for one in read_judged(path)]
    click.echo(json.dumps(told(judged, list(product(of_view, of_edit)), (1, 3, 8)), indent=1))


def _told(cases: CaseArrays, found: Any) -> dict[str, Any]:
    from kodkod_app.nano.ranking.fit import blind_recall, by_kind, recall

    def rounded(values: Sequence[float]) -> list[float]:
        return [round(value, 3) for value in values]

    return {
        "cases": len(cases),
        "edits a case": round(len(cases.code_ends) / max(1, len(cases)), 1),
        "repair among the edits": round(float((cases.repair >= 0).mean()), 3),
        "recall at": list(_MOST),
        "recall": rounded([recall(found, most) for most in _MOST]),
        "random order": rounded([blind_recall(cases, most) for most in _MOST]),
        "by class of fault": {
            kind: {"cases": number, "recall": rounded(values)}
            for kind, (number, values) in by_kind(cases, found, _MOST).items()
        },
    }


if __name__ == "__main__":
    main(prog_name="python -m kodkod_app.nano.ranking")
