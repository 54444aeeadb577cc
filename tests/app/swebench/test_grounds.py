"""Where instances stand: environments from which the sound release was taken, made once for all workers."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from kodkod_app.repair_eval.packages import READY, Package, PackageSpec
from kodkod_app.swebench import grounds
from kodkod_app.swebench.grounds import environment_without
from kodkod_app.swebench.work_tree import WorkTreeFault, checkout

from ..conftest import git

SITE = "lib/python3.11/site-packages"


@pytest.fixture
def package(tmp_path):
    environment = tmp_path / "env"
    site = environment / SITE
    (site / "thing-1.0.dist-info").mkdir(parents=True)
    (site / "thing-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (site / "thing-1.0.dist-info" / "RECORD").write_text("thing.py,,\nthing-1.0.dist-info/METADATA,,\n")
    (site / "thing.py").write_text("sound = True\n")
    (site / "other.py").write_text("")
    (environment / READY).touch()
    return Package(PackageSpec(name="thing", version="1.0", licence="", requirements=()), tmp_path, environment, ())


def assert_without(environment):
    assert not (environment / SITE / "thing.py").exists()
    assert (environment / SITE / "other.py").exists()
    assert (environment / SITE / "thing-1.0.dist-info" / "METADATA").exists()


def test_workers_that_come_together_get_one_environment(package, monkeypatch):
    remove, lock = grounds._remove_modules, threading.Lock()
    made, at_once, most = 0, 0, 0

    def counted(*arguments):
        nonlocal made, at_once, most
        with lock:
            made, at_once = made + 1, at_once + 1
            most = max(most, at_once)
        time.sleep(0.05)  # long enough for the others to come
        remove(*arguments)
        with lock:
            at_once -= 1

    monkeypatch.setattr(grounds, "_remove_modules", counted)
    with ThreadPoolExecutor(4) as workers:
        (environment,) = set(workers.map(lambda _: environment_without(package), range(4)))
    assert_without(environment)
    assert (made, most) == (1, 1)


def test_half_a_copy_is_never_taken_for_a_whole_one(package, monkeypatch):
    def cut_short(*arguments, **named):
        shutil.copytree(*arguments, **named)
        raise KeyboardInterrupt

    copying = SimpleNamespace(copytree=cut_short, rmtree=shutil.rmtree, ignore_patterns=shutil.ignore_patterns)
    monkeypatch.setattr(grounds, "shutil", copying)
    with pytest.raises(KeyboardInterrupt):
        environment_without(package)
    monkeypatch.setattr(grounds, "shutil", shutil)
    assert_without(environment_without(package))


def test_a_commit_is_laid_out_whole_whatever_its_archives_leave_out(clones, tmp_path):
    clone = clones / "local" / "calc"
    (clone / ".gitattributes").write_text("tests export-ignore\nversion.py export-subst\n")
    (clone / "version.py").write_text("COMMIT = '$Format:%H$'\n")
    git(clone, "add", ".")
    git(clone, "commit", "-q", "-m", "as releases are made of it")
    bare = tmp_path / "bare"
    git(tmp_path, "clone", "-q", "--bare", str(clone), str(bare))
    for number, place in enumerate((clone, bare)):
        tree = tmp_path / f"tree-{number}"
        checkout(place, git(clone, "rev-parse", "HEAD").strip(), tree)
        assert (tree / "tests" / "test_calc.py").read_text() == (clone / "tests" / "test_calc.py").read_text()
        assert (tree / "version.py").read_text() == "COMMIT = '$Format:%H$'\n"
        assert not (tree / ".git").exists()
    with pytest.raises(WorkTreeFault, match="0000"):
        checkout(clone, "0" * 40, tmp_path / "none")
    assert git(clone, "status", "--short") == ""
