"""`kodkod demo`: the main job on a small repository, from a failing test to a verified repair."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodkod_app.commands.fix import MODEL_HELP
from kodkod_sandbox.base import SandboxKind

if TYPE_CHECKING:
    from kodkod_app.demonstration import Broken

_EXAMPLE_TEST = "tests/test_sheet.py::test_one_thing_follows_the_other"


@click.command()
@click.option("--package", metavar="NAME==VERSION", help="A release from the package index, which is broken first.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the fault in the package.")
@click.option("--candidates", type=click.IntRange(1), default=8, show_default=True, help="Edits that are tried.")
@click.option("-m", "--model", metavar="DIR", help=MODEL_HELP)
@click.option("--sandbox", type=click.Choice([kind.value for kind in SandboxKind]), help="[default: auto]")
@click.argument("example", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.argument("failing_tests", nargs=-1)
def command(example: Path | None, failing_tests: tuple[str, ...], package: str | None, seed: int, **flags: Any) -> int:
    """Mend a failing test in a copy of EXAMPLE, a folder; by default of an example that comes with the source.

    Exit codes: 0 mended and verified, 3 not verified; others as of `kodkod fix`.
    """
    if package is not None and example is not None:
        raise click.UsageError("--package and EXAMPLE exclude each other; give one")
    if example is not None and not failing_tests:
        raise click.UsageError("name the tests of EXAMPLE that fail, behind it")
    from kodkod_app.bootstrap import require_model

    model = require_model(_model(flags["model"]))
    with _broken(package, seed, example, failing_tests or (_EXAMPLE_TEST,)) as broken:
        return _mend(broken, model, flags)


def _model(name: str | None) -> str | None:
    from kodkod_app.bootstrap import absolute_name

    return absolute_name(name) if name else os.environ.get("KODKOD_MODEL")


@contextmanager
def _broken(package: str | None, seed: int, example: Path | None, failing: tuple[str, ...]) -> Iterator[Broken]:
    from kodkod_app.demonstration import broken_package, example_copy, example_folder

    with (
        broken_package(package, seed, _tell) if package else example_copy(example or example_folder(), failing)
    ) as broken:
        yield broken


def _mend(broken: Broken, model: str, flags: dict[str, Any]) -> int:
    from kodkod_app.headless import run_headless
    from kodkod_app.repair_prompt import failing_prompt
    from kodkod_app.report_text import TextRenderer
    from kodkod_app.session_opening import RunOptions
    from kodkod_app.settings import load_settings

    _tell(f"{broken.what}, in a copy at {broken.tree}")
    _tell(f"failing: {', '.join(broken.failing_tests)}")
    said = {
        "model": model,
        "sandbox": flags["sandbox"],
        "env": broken.environment and str(broken.environment),
        "candidates": {"count": flags["candidates"]},
        "agent": {"attended": False, "test_targets": list(broken.failing_tests)},
    }
    layer = {key: value for key, value in said.items() if value is not None}
    settings = load_settings(broken.tree, trusted=True, environment=os.environ, flags=layer)
    options = RunOptions(
        broken.tree, settings, failing_prompt(broken.failing_tests), variables=broken.variables, asked=layer
    )
    # The copy is gone by then; what was said and done in it is kept.
    look = "look at it    kodkod sessions show {}"
    return run_headless(options, TextRenderer(look, look))


def _tell(text: str) -> None:
    click.echo(text, err=True)
