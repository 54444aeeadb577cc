"""Which environment is found, what a box must show of it, and that it runs there."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from kodkod_app.boxes import BoxPlan, is_closed_box, open_box
from kodkod_app.python_environment import EnvironmentFault, find_environment
from kodkod_sandbox.choose import SandboxKind
from kodkod_sandbox.errors import SandboxUnavailable
from kodkod_sandbox.none import NoSandbox


def make(folder: Path) -> Path:
    """A real environment, without pip."""
    venv.create(folder, symlinks=True)
    return folder


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return (tmp_path / "tree").resolve()


def test_the_order_is_named_active_project_own(tree, tmp_path):
    own = find_environment(tree, None, {})
    assert own.folder == Path(sys.prefix)
    (tree / "venv").mkdir()
    assert find_environment(tree, None, {}).folder == own.folder  # an empty folder is none
    assert find_environment(tree, None, {"VIRTUAL_ENV": str(tree)}).folder == own.folder
    in_tree = make(tree / ".venv")
    assert find_environment(tree, None, {}).folder == in_tree
    active = make(tmp_path / "active")
    assert find_environment(tree, None, {"VIRTUAL_ENV": str(active)}).folder == active
    named = make(tmp_path / "named")
    found = find_environment(tree, named, {"VIRTUAL_ENV": str(active)})
    assert (found.folder, found.origin) == (named, "named by --env")
    assert found.variables["PATH"].startswith(f"{named}/bin:")
    assert found.variables["VIRTUAL_ENV"] == str(named)


def test_pytest_in_the_environment_of_kodkod_loads_no_plugin_that_only_kodkod_brings(tree):
    (tree / "test_seen.py").write_text("import sys\ndef test_seen():\n    assert 'langsmith' not in sys.modules\n")
    found = find_environment(tree, None, {})
    command = ["python", "-m", "pytest", "-q", "-p", "no:schemathesis", "test_seen.py"]
    ran = subprocess.run(command, cwd=tree, env=found.variables, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "PYTEST_ADDOPTS" not in find_environment(tree, make(tree / ".venv"), {}).variables


@pytest.mark.parametrize("name", [".", "x" * 5_000, "a\0b"])
def test_a_named_folder_that_is_no_environment_is_a_usage_error(tree, name):
    with pytest.raises(EnvironmentFault, match="no Python environment") as fault:
        find_environment(tree, tree / name, {})
    assert fault.value.exit_code == 2


def test_the_base_interpreter_is_shown_and_the_work_tree_and_the_system_are_not(tree):
    found = find_environment(tree, make(tree / ".venv"), {})
    base = Path(sys.base_prefix).resolve()
    assert not any(path.is_relative_to(tree) for path in found.read_only_paths)
    assert base in found.read_only_paths or base.is_relative_to("/usr")
    assert all(path.exists() for path in found.read_only_paths)


@pytest.mark.parametrize("home", ["{home}/bin", "/bin", "/", "secrets/bin", "{secrets}/bin"])
def test_an_environment_cannot_open_what_is_no_interpreter(tree, tmp_path, monkeypatch, home):
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    secrets = tmp_path / "person" / "secrets"
    (secrets / "bin").mkdir(parents=True)
    # A home that is dressed up as an interpreter is still a home.
    for lib in (tmp_path / "person" / "lib" / "python3.11", tmp_path / "lib" / "python3.11"):
        lib.mkdir(parents=True)
        (lib / "os.py").touch()
    environment = make(tree / ".venv")
    named = home.format(home=tmp_path / "person", secrets=secrets)
    (environment / "pyvenv.cfg").write_text(f"home = {named}\n")
    shown = find_environment(tree, None, {}).read_only_paths
    assert not any(secrets.is_relative_to(path) for path in shown)


def test_a_folder_that_holds_the_home_is_no_environment(tree, tmp_path, monkeypatch):
    make(tmp_path / "all")
    monkeypatch.setenv("HOME", str(tmp_path / "all" / "person"))
    with pytest.raises(EnvironmentFault):
        find_environment(tree, tmp_path / "all", {})


def test_docker_gets_the_environment_only_when_it_was_named(tree):
    environment = find_environment(tree, None, {})
    plan = BoxPlan(tree, SandboxKind.AUTO, environment)
    assert plan.options(SandboxKind.DOCKER).env == {}
    assert plan.options(SandboxKind.LANDLOCK).env == environment.variables
    named = BoxPlan(tree, SandboxKind.AUTO, environment, environment_for_docker=True)
    assert named.options(SandboxKind.DOCKER).read_only_paths == environment.read_only_paths
    assert BoxPlan(tree, SandboxKind.AUTO).options(SandboxKind.LANDLOCK).env == {}


@pytest.mark.parametrize("kind", [SandboxKind.LANDLOCK, SandboxKind.NONE])
async def test_python_in_the_box_is_the_environments(tree, kind):
    environment = find_environment(tree, None, {})
    async with open_box(BoxPlan(tree, kind, environment)) as box:
        ran = await box.exec(["python", "-c", "import sys, pytest; print(sys.prefix)"])
        assert (ran.exit_code, ran.stdout.decode().strip()) == (0, sys.prefix), ran.stderr
        assert is_closed_box(box) == (kind is not SandboxKind.NONE)


async def test_auto_goes_on_to_the_next_kind_and_names_every_reason(tree, monkeypatch):
    asked = []

    async def refuse(kind, options, **_):
        asked.append(kind)
        raise SandboxUnavailable(f"no {kind} today")

    monkeypatch.setattr("kodkod_app.boxes.open_sandbox", refuse)
    with pytest.raises(
        SandboxUnavailable, match=r"docker: no docker today.*landlock: no landlock today.*--sandbox none"
    ):
        async with open_box(BoxPlan(tree, SandboxKind.AUTO)):
            pass
    assert asked == ["docker", "bubblewrap", "landlock"]


def test_the_environment_made_here_is_a_real_one(tree):
    python = make(tree / ".venv") / "bin" / "python"
    told = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(tree / ".venv")


async def test_auto_passes_over_an_image_that_cannot_run_the_tests(tree, monkeypatch):
    opened = []

    async def open_here(kind, options, **_):
        opened.append(kind)
        box = NoSandbox(options)
        await box.start()
        return box

    monkeypatch.setattr("kodkod_app.boxes.open_sandbox", open_here)
    plan = BoxPlan(tree, SandboxKind.AUTO, find_environment(tree, None, {}), test_command=("nothing", "-m", "pytest"))
    async with open_box(plan) as box:
        assert opened == ["docker", "bubblewrap"]
        assert box.options.env == plan.environment.variables


async def test_auto_comes_back_to_that_image_when_nothing_else_can_be_had(tree, monkeypatch):
    opened = []

    async def open_here(kind, options, **_):
        opened.append(kind)
        if kind is not SandboxKind.DOCKER:
            raise SandboxUnavailable("not here")
        box = NoSandbox(options)
        await box.start()
        return box

    monkeypatch.setattr("kodkod_app.boxes.open_sandbox", open_here)
    plan = BoxPlan(tree, SandboxKind.AUTO, find_environment(tree, None, {}), test_command=("nothing", "-m", "pytest"))
    async with open_box(plan):
        assert opened == ["docker", "bubblewrap", "landlock", "docker"]
