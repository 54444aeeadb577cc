from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from kodkod_app.nano import packages
from kodkod_app.nano.corpus import corpus_packages
from kodkod_app.nano.packages import PackageFault, PackageSpec, Role, known_package, known_packages, make_ready
from kodkod_app.nano.releases import PLAIN_PYTEST, release, variables_of_tests

PERMISSIVE = {"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "PSF-2.0"}


def test_enough_packages_of_either_part_under_permissive_licences() -> None:
    assert len(known_packages(Role.TRAIN)) >= 12
    assert len(known_packages(Role.HELD_OUT)) >= 7
    names = [spec.name for spec in known_packages()]
    assert len(names) == len(set(names))
    assert {spec.licence for spec in known_packages()} <= PERMISSIVE


def test_nothing_that_is_measured_on_is_learnt_from() -> None:
    held_out = {spec.name for spec in known_packages(Role.HELD_OUT)}
    learnt = {spec.name for spec in known_packages(Role.TRAIN)} | {package.name for package in corpus_packages()}
    assert not learnt & held_out


def archive(names: list[str]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as writer:
        for name in names:
            text = b"x = 1\n"
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            writer.addfile(entry, io.BytesIO(text))
    return data.getvalue()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """What each address gives."""
    monkeypatch.setenv("KODKOD_HOME", str(tmp_path))
    pages: dict[str, bytes] = {}
    monkeypatch.setattr(packages, "_index_url", lambda: "https://index.invalid/simple/")
    monkeypatch.setattr(packages, "_get", lambda url, _: pages[url])
    return pages


def spec_of(data: bytes, index: dict[str, bytes], sent: bytes | None = None) -> PackageSpec:
    digest = hashlib.sha256(data).hexdigest()
    page = {"files": [{"url": "../../files/thing-1.0.tar.gz", "hashes": {"sha256": digest}}]}
    index["https://index.invalid/simple/thing/"] = json.dumps(page).encode()
    index["https://index.invalid/files/thing-1.0.tar.gz"] = data if sent is None else sent
    return PackageSpec(name="thing", version="1.0", sha256=digest, licence="MIT", role=Role.TRAIN, tests=("tests",))


def test_a_release_is_fetched_once_and_unpacked(index: dict[str, bytes], tmp_path: Path) -> None:
    spec = spec_of(archive(["thing-1.0/thing.py"]), index)
    package = make_ready(spec)
    assert package.tree == tmp_path / "cache" / "nano" / "packages" / "thing-1.0" / "tree"
    assert (package.tree / "thing.py").read_text() == "x = 1\n"
    index.clear()
    assert make_ready(spec) == package


def test_what_comes_with_another_digest_is_refused(index: dict[str, bytes]) -> None:
    spec = spec_of(archive(["thing-1.0/thing.py"]), index, sent=b"another")
    with pytest.raises(PackageFault, match="another digest"):
        make_ready(spec)


def test_an_index_without_the_release_is_named(index: dict[str, bytes]) -> None:
    spec = spec_of(b"", index)
    with pytest.raises(PackageFault, match="no archive of thing"):
        make_ready(spec.model_copy(update={"sha256": "0" * 64}))
    index["https://index.invalid/simple/thing/"] = b"<html>"
    with pytest.raises(PackageFault, match="no page in JSON"):
        make_ready(spec)


@pytest.mark.parametrize("names", [["../evil.py"], ["one/a.py", "two/b.py"]])
def test_an_archive_that_is_none_of_a_release_is_refused(index: dict[str, bytes], names: list[str]) -> None:
    spec = spec_of(archive(names), index)
    with pytest.raises(PackageFault, match="cannot be unpacked"):
        make_ready(spec)
    assert not list((packages.paths.cache_folder() / "nano" / "packages" / "thing-1.0").iterdir())


def test_only_https_is_read() -> None:
    with pytest.raises(PackageFault, match="no https address"):
        packages._get("http://index.invalid/simple/", 10)


def test_a_release_that_is_not_known_is_made_out_from_its_archive(index: dict[str, bytes], monkeypatch) -> None:
    data = archive(["my_thing-1.0/src/thing/__init__.py", "my_thing-1.0/src/thing/tests/test_it.py"])
    page = {"files": [{"url": "a/My.Thing-1.0.tar.gz", "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}]}
    index["https://index.invalid/simple/my-thing/"] = json.dumps(page).encode()
    index["https://index.invalid/simple/my-thing/a/My.Thing-1.0.tar.gz"] = data
    installed: list[list[str]] = []
    monkeypatch.setattr(packages, "_install", lambda spec, _folder: installed.append([*spec.requirements]))
    found = release("my-thing==1.0")
    assert (found.spec.source, found.spec.tests) == ("src", ("src/thing/tests",))
    assert installed[0] == ["my-thing==1.0"]
    assert variables_of_tests(found.spec, found.tree) == {"PYTHONPATH": str(found.tree / "src"), **PLAIN_PYTEST}
    with pytest.raises(PackageFault, match="no source archive of my-thing==2"):
        release("my-thing==2")


@pytest.mark.parametrize("wrong", ["toolz", "a b==1", "toolz==", "-r==1"])
def test_a_release_is_named_with_its_version(wrong: str) -> None:
    with pytest.raises(PackageFault, match="write it as NAME==VERSION"):
        release(wrong)


def test_an_unknown_name_gets_the_known_ones() -> None:
    assert known_package("toolz").role is Role.HELD_OUT
    with pytest.raises(PackageFault, match="toolz"):
        known_package("nothing")


def test_the_manifest_has_every_licence(tmp_path: Path) -> None:
    packages.write_manifest(known_packages(), tmp_path / "manifest.json")
    entries = json.loads((tmp_path / "manifest.json").read_text())
    assert {(entry["name"], entry["licence"]) for entry in entries} == {
        (spec.name, spec.licence) for spec in known_packages()
    }
