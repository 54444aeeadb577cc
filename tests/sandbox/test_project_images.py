"""Images that are really built, and the tests that run in them with no network."""

from __future__ import annotations

import asyncio
import http.server
import os
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.choose import find_image, open_sandbox
from kodkod_sandbox.daemon import Daemon
from kodkod_sandbox.errors import ImageError, SandboxUnavailable
from kodkod_sandbox.images import BASE_TAG, VENV, find_recipe

pytestmark = pytest.mark.docker

TESTS = """
import socket, sys

import pytest
import {package}


def test_its_package_is_the_images():
    assert {package}.__file__.startswith("{venv}/")


def test_there_is_no_network():
    with pytest.raises(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    daemon = Daemon.connect()
    yield daemon
    daemon.close()


@pytest.fixture
def tree(daemon: Daemon) -> Iterator[Path]:
    """A project's folder; the image it describes in the end is removed after the test."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        tree.chmod(0o755)
        yield tree
        if recipe := find_recipe(tree):
            daemon.remove_image(recipe.tag)


async def run(tree: Path, *command: str, allow: bool = False) -> tuple[int, str, str]:
    """Exit code, output and the box's note."""
    box = await open_sandbox("docker", BoxOptions(tree), allow_build_network=allow)
    try:
        done = await box.exec(command)
        return done.exit_code, (done.stdout + done.stderr).decode(), box.note
    finally:
        await box.close()


async def test_a_bare_project_can_be_tested_in_the_base_image(tree: Path) -> None:
    (tree / "test_it.py").write_text("def test_it():\n    assert True\n")
    exit_code, said, note = await run(tree, "python", "-m", "pytest", "-q")
    assert (exit_code, note) == (0, ""), said
    assert "1 passed" in said


async def test_requirements_are_installed_once_and_tests_run_without_network(tree: Path, daemon: Daemon) -> None:
    (tree / "requirements.txt").write_text("-e .\n-r pins/six.txt\n")
    (tree / "pins").mkdir()
    (tree / "pins" / "six.txt").write_text("six==1.16.0\n")
    (tree / "test_it.py").write_text(TESTS.format(package="six", venv=VENV))
    told: list[str] = []
    image = find_image(tree, allow_build_network=True, tell=told.append)
    assert daemon.has_image(image.tag)
    assert (len(told), image.note) == (1, "")
    exit_code, said, note = await run(tree, "python", "-m", "pytest", "-q")
    assert (exit_code, note) == (0, ""), said
    assert "2 passed" in said
    assert find_image(tree, allow_build_network=True, tell=told.append) == image
    assert len(told) == 1


async def test_without_leave_the_base_stands_in_and_says_so(tree: Path, daemon: Daemon) -> None:
    (tree / "requirements.txt").write_text("six==1.15.0\n")
    exit_code, _, note = await run(tree, "true")
    assert exit_code == 0
    assert note.startswith("the Docker image that requirements.txt describes is not built")
    assert "--allow-build-network" in note
    recipe = find_recipe(tree)
    assert recipe
    assert not daemon.has_image(recipe.tag)


def test_an_environment_the_image_knows_nothing_of_is_noted(tree: Path) -> None:
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").touch()
    image = find_image(tree)
    assert image.tag == BASE_TAG
    assert "nothing of .venv" in image.note


def test_a_requirement_that_is_not_found_is_one_line(tree: Path) -> None:
    (tree / "requirements.txt").write_text("six==999.0\n")
    with pytest.raises(ImageError) as caught:
        find_image(tree, allow_build_network=True)
    assert str(caught.value) == (
        "the Docker image that requirements.txt describes cannot be built: "
        "ERROR: No matching distribution found for six==999.0"
    )


async def test_a_dockerfile_is_built_and_started_from(tree: Path) -> None:
    (tree / "Dockerfile").write_text(f'FROM {BASE_TAG}\nCOPY mark /mark\nENV FROM_IT=1\nUSER root\nENTRYPOINT ["no"]\n')
    (tree / "mark").write_text("here\n")
    exit_code, said, note = await run(tree, "cat", "/mark", allow=True)
    assert (exit_code, said, note) == (0, "here\n", "")


@pytest.mark.parametrize(
    ("instruction", "cause"),
    [
        ("RUN false", "The command '/bin/sh -c false' returned a non-zero code: 1"),
        ("RUN echo one; echo last words; exit 3", "non-zero code: 3: last words"),
        ("RUN echo 'E: no such package' >&2; echo after; exit 1", "built: E: no such package"),
        ("NONSENSE", "nknown instruction: NONSENSE"),
    ],
)
def test_a_dockerfile_that_fails_tells_why_in_a_line(tree: Path, instruction: str, cause: str) -> None:
    (tree / "Dockerfile").write_text(f"FROM {BASE_TAG}\n{instruction}\n")
    with pytest.raises(ImageError, match="Dockerfile describes cannot be built") as caught:
        find_image(tree, allow_build_network=True)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["Dockerfile", "requirements.txt"])
async def test_a_build_that_is_cancelled_leaves_nothing_running(tree: Path, daemon: Daemon, source: str) -> None:
    mark = f"{tree.name}-{secrets.token_hex(4)}"
    texts = {"Dockerfile": f"FROM {BASE_TAG}\nRUN : {mark}\nRUN sleep 300\n", "requirements.txt": f"# {mark}\nsix\n"}
    (tree / source).write_text(texts[source])
    before = containers(daemon)
    opening = asyncio.create_task(open_sandbox("docker", BoxOptions(tree), allow_build_network=True))
    if source == "Dockerfile":
        await until(lambda: any("sleep 300" in command for command in containers(daemon).values()))
    else:
        await until(lambda: containers(daemon).keys() - before.keys())
    started_s = time.monotonic()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert time.monotonic() - started_s < 10
    await until(lambda: containers(daemon).keys() <= before.keys())
    recipe = find_recipe(tree)
    assert recipe
    assert not daemon.has_image(recipe.tag)


def containers(daemon: Daemon) -> dict[str, str]:
    """What each container runs."""
    return {each["Id"]: each["Command"] for each in daemon._api.containers(all=True)}


async def until(holds: Callable[[], object], limit_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline_s, "it never came"
        await asyncio.sleep(0.1)


class _Index(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *arguments: object) -> None:
        """Says nothing."""

    log_error = log_request


@pytest.fixture
def own_index(tmp_path: Path) -> Iterator[str]:
    """An index on this machine with one package, `kodkodprobe`; its address, with a password in it."""
    folder = tmp_path / "index" / "kodkodprobe"
    folder.mkdir(parents=True)
    info = "kodkodprobe-1.0.dist-info"
    with zipfile.ZipFile(folder / "kodkodprobe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kodkodprobe.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: kodkodprobe\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")

    def handler(*arguments: object) -> _Index:
        return _Index(*arguments, directory=str(folder.parent))  # type: ignore[arg-type]  # the server's own three

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://person:secret-word@127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


async def test_the_build_takes_pips_way_and_the_image_does_not_tell_of_it(
    tree: Path, daemon: Daemon, own_index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if daemon._build_network() != "host":
        pytest.skip("this daemon's builds do not see this machine's own addresses")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{own_index} file:///nowhere")
    (tree / "requirements.txt").write_text("kodkodprobe==1.0\n")
    (tree / "test_it.py").write_text(TESTS.format(package="kodkodprobe", venv=VENV))
    exit_code, said, _ = await run(tree, "python", "-m", "pytest", "-q", allow=True)
    assert exit_code == 0, said
    recipe = find_recipe(tree)
    assert recipe
    history = str(daemon._api.history(recipe.tag)) + str(daemon._api.inspect_image(recipe.tag))
    assert "secret-word" not in history
    assert not [each for each in daemon._api.images(all=True) if recipe.tag in str(each.get("Labels"))]


# What is shown of this machine


def _environment(parent: Path, mode: int) -> Path:
    folder = Path(tempfile.mkdtemp(dir=parent)) / "env"
    (folder / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", folder / "bin" / "python")
    folder.chmod(mode)
    return folder


@pytest.mark.parametrize("mode", [0o755, 0o700])
async def test_an_environment_in_a_closed_home_can_be_used(tree: Path, mode: int) -> None:
    environment = _environment(Path.home(), mode)
    try:
        box = await open_sandbox("docker", BoxOptions(tree, read_only_paths=(environment,)))
        assert (await box.exec([f"{environment}/bin/python"])).exit_code == 0
        await box.close()
    finally:
        shutil.rmtree(environment.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that the tree's owner cannot enter")
async def test_an_environment_closed_to_the_trees_owner_is_named(tree: Path, tmp_path: Path) -> None:
    os.chown(tree, 1000, 1000)
    environment = _environment(tmp_path, 0o700)
    with pytest.raises(SandboxUnavailable, match=r"env is closed to the user .*chmod.*--env") as caught:
        await open_sandbox("docker", BoxOptions(tree, read_only_paths=(environment,)))
    assert str(caught.value).startswith(str(environment))
