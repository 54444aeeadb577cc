"""What a person is told of the box a run works in, and which one `auto` takes because of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kodkod_agent.policy import PermissionMode
from kodkod_app import boxes
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.commands.fix import PERMISSION_MODES
from kodkod_app.python_environment import find_environment
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.choose import SandboxKind
from kodkod_sandbox.errors import ImageError, SandboxLost, SandboxUnavailable
from kodkod_sandbox.images import Image
from kodkod_sandbox.none import NoSandbox

from .conftest import FINISH

STANDS_IN = "the base image stands in"


class NotedSandbox(NoSandbox):
    note = STANDS_IN  # type: ignore[assignment]  # the same for every one


@pytest.fixture(autouse=True)
def first_time():
    """As in a process that has told nothing yet."""
    boxes.tell.cache_clear()


@pytest.fixture
def opened(monkeypatch):
    """The kinds that were opened; Docker's comes with a note."""
    found = []

    async def open_here(kind, options, **_):
        found.append(kind)
        box = NotedSandbox(options) if kind == SandboxKind.DOCKER else NoSandbox(options)
        await box.start()
        return box

    monkeypatch.setattr(boxes, "open_sandbox", open_here)
    return found


async def test_a_note_is_told_once_in_a_process(tmp_path, opened, capsys):
    for _ in range(2):
        async with open_box(BoxPlan(tmp_path, SandboxKind.DOCKER)):
            pass
    assert capsys.readouterr().err == f"note: {STANDS_IN}\n"


async def test_auto_prefers_a_box_with_the_environment_to_an_image_that_stands_in(tmp_path, opened, capsys):
    plan = BoxPlan(tmp_path, SandboxKind.AUTO, find_environment(tmp_path, None, {}), test_command=("true", "pytest"))
    async with open_box(plan) as box:
        assert box.options.env == plan.environment.variables
    assert opened == ["docker", "bubblewrap"]
    assert capsys.readouterr().err == f"note: docker is passed over: {STANDS_IN}\n"


async def test_auto_takes_that_image_where_there_is_no_environment(tmp_path, opened):
    async with open_box(BoxPlan(tmp_path, SandboxKind.AUTO)):
        assert opened == ["docker"]


async def test_auto_tells_of_an_image_that_cannot_be_built(tmp_path, monkeypatch, capsys):
    async def open_here(kind, options, **_):
        if kind == SandboxKind.DOCKER:
            raise ImageError("cannot be built: no such package")
        if kind == SandboxKind.BUBBLEWRAP:
            raise SandboxUnavailable("not installed")
        box = NoSandbox(options)
        await box.start()
        return box

    monkeypatch.setattr(boxes, "open_sandbox", open_here)
    async with open_box(BoxPlan(tmp_path, SandboxKind.AUTO)):
        assert capsys.readouterr().err == "note: docker is passed over: cannot be built: no such package\n"


async def test_a_box_that_fails_its_first_command_is_closed(tmp_path, opened, monkeypatch):
    closed = []

    async def close(box):
        closed.append(box)

    async def lost(*_, **__):
        raise SandboxLost("gone")

    monkeypatch.setattr(NoSandbox, "exec", lost)
    monkeypatch.setattr(NoSandbox, "close", close)
    environment = find_environment(tmp_path, None, {})
    assert environment is not None
    monkeypatch.setattr(BoxPlan, "options", lambda plan, _: BoxOptions(plan.work_tree))
    monkeypatch.setattr(NotedSandbox, "note", "")
    with pytest.raises(SandboxLost):
        async with open_box(BoxPlan(tmp_path, SandboxKind.AUTO, environment, test_command=("pytest",))):
            pass
    assert len(closed) == 1


def test_fix_tells_it_before_its_first_line(kodkod, project, record, opened):
    found = kodkod("fix", "-C", project, "-m", record(*[FINISH] * 3), "--issue", "x", "--sandbox", "docker")
    first, second = found.err.splitlines()[:2]
    assert first == f"note: {STANDS_IN}"
    assert second.startswith("session ")


@pytest.mark.parametrize(
    ("image", "is_good", "detail"),
    [
        (Image("kodkod-project:1"), True, "kodkod-project:1"),
        (Image("kodkod-base:1", STANDS_IN), False, STANDS_IN),
        (ImageError("no image"), False, "no image"),
        (SandboxUnavailable("no daemon"), None, None),
    ],
)
def test_doctor_has_a_line_on_the_projects_image(kodkod, monkeypatch, image, is_good, detail):
    def find(_):
        if isinstance(image, Exception):
            raise image
        return image

    async def no_boxes():
        return []

    monkeypatch.setattr("kodkod_app.machine_facts.find_image", find)
    monkeypatch.setattr("kodkod_app.machine_facts.sandbox_facts", no_boxes)
    facts = {fact["name"]: fact for fact in json.loads(kodkod("doctor", "--output-format", "json").out)}
    found = facts.get("docker image")
    assert (found and (found["is_good"], found["detail"])) == (None if is_good is None else (is_good, detail))


def test_the_permission_modes_named_in_help_are_all_there_are():
    assert list(PERMISSION_MODES) == [mode.value for mode in PermissionMode]


def test_help_waits_for_no_agent_and_no_docker():
    script = (
        "import sys; from kodkod_app.cli import _run; code = _run(['fix', '-h']); "
        "heavy = {'docker', 'git', 'langgraph', 'pydantic', 'torch', 'tree_sitter'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--permission-mode" in done.stdout
