"""The corpus: what is taken from a wheel, and that only the named bytes are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from kodkod_app.nano.corpus import (
    CorpusFault,
    CorpusPackage,
    Module,
    corpus_packages,
    declared_licence,
    drawn,
    fetch,
    modules,
    read_module,
    without,
    write_manifest,
)
from kodkod_app.nano.packages import Role, known_packages

MakeWheel = Callable[..., CorpusPackage]
METHOD = "class Box:\n    @property\n    def size(self):\n        side = self.side\n        return side * side\n"


def test_a_large_package_gives_no_more_than_its_share(module: Module) -> None:
    others = [dataclasses.replace(module, package="other", path=f"{n}.py") for n in range(20)]
    each = len(module.functions)
    found = list(drawn([module, *others], 3 * each, 1))
    assert found[0] == module
    assert [one.package for one in found[1:]] == ["other"] * 3
    assert found == list(drawn([module, *others], 3 * each, 1))
    assert found != list(drawn([module, *others], 3 * each, 2))


def test_the_list_is_pinned_permissive_and_without_doubles() -> None:
    packages = corpus_packages()
    assert len({package.name for package in packages}) == len(packages) >= 40
    assert any(package.validation for package in packages)


def test_a_licence_that_is_not_permissive_is_refused() -> None:
    with pytest.raises(ValidationError, match="is not among the licences"):
        CorpusPackage(name="x", version="1", sha256="0" * 64, licence="GPL-3.0")


def test_functions_are_taken_once_and_neither_from_tests_nor_from_copies(tmp_path: Path, make_wheel: MakeWheel) -> None:
    package = make_wheel(tmp_path)
    found = list(modules("shapes", fetch([package], tmp_path)["shapes"], set()))
    names = {(module.path, function.class_name, function.name) for module in found for function in module.functions}
    assert names == {("shapes/again.py", "", "area"), ("shapes/area.py", "Box", "size")}


def test_a_function_begins_with_its_decorators() -> None:
    found = read_module("shapes", "a.py", METHOD.encode(), set())
    assert found is not None
    (function,) = found.functions
    assert found.text(function).startswith("    @property\n")
    assert function.num_lines == 4


@pytest.mark.parametrize("data", [b"\xff", b"x = (", b"x = 1\r\n", b"#" * 200_000])
def test_what_is_no_plain_python_is_passed_over(data: bytes) -> None:
    assert read_module("p", "a.py", data, set()) is None


def test_pip_fetches_the_very_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_wheel: MakeWheel) -> None:
    index, kept = tmp_path / "index", tmp_path / "kept"
    index.mkdir()
    kept.mkdir()
    package = make_wheel(index)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheel = fetch([package], kept)["shapes"]
    assert wheel.parent == kept
    assert declared_licence(wheel) == "MIT"


def test_another_digest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_wheel: MakeWheel) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    package = make_wheel(tmp_path).model_copy(update={"sha256": "0" * 64})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(CorpusFault, match="pip cannot fetch the corpus"):
        fetch([package], kept)


def test_the_manifest_records_licences(tmp_path: Path, make_wheel: MakeWheel) -> None:
    name = corpus_packages()[0].name
    make_wheel(tmp_path, name)
    write_manifest({name: tmp_path / f"{name}-1.0-py3-none-any.whl"}, tmp_path / "manifest.json")
    (entry,) = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert (entry["name"], entry["declares"]) == (name, "MIT")
    assert entry["licence"] == corpus_packages()[0].licence


def test_nothing_that_is_measured_on_is_learnt_from() -> None:
    held_out = {spec.name for spec in known_packages(Role.HELD_OUT)}
    assert not held_out & {package.name for package in corpus_packages()}
    first, *others = corpus_packages()
    assert without(corpus_packages(), {first.name}) == tuple(others)
