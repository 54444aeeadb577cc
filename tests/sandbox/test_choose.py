from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from pathlib import Path

import pytest

from kodkod_sandbox import bubblewrap, choose
from kodkod_sandbox.base import BoxOptions, Sandbox
from kodkod_sandbox.choose import SandboxKind, diagnose, open_sandbox
from kodkod_sandbox.daemon import Daemon
from kodkod_sandbox.docker import DockerSandbox
from kodkod_sandbox.errors import SandboxError, SandboxLost, SandboxUnavailable
from kodkod_sandbox.images import Image
from reachable import let_others_in

NOWHERE = "unix:///nonexistent/docker.sock"


@pytest.fixture
def options(tmp_path: Path) -> BoxOptions:
    return BoxOptions(tmp_path)


async def test_auto_takes_what_there_is_and_says_its_name(options: BoxOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    box = await open_sandbox("auto", options)
    assert isinstance(box, Sandbox)
    assert box.name in ("bubblewrap", "landlock")
    assert (await box.exec("echo in")).stdout == b"in\n"
    await box.close()


async def test_a_box_that_is_called_off_while_it_starts_is_closed(
    options: BoxOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container is made in a thread, which nothing stops."""
    begun, go_on, closed = threading.Event(), threading.Event(), []

    def start(box: DockerSandbox) -> None:
        begun.set()
        go_on.wait(60)
        box._container = "made"

    monkeypatch.setattr(DockerSandbox, "_start", start)
    monkeypatch.setattr(DockerSandbox, "_close", lambda box: closed.append(box._container))
    opening = asyncio.create_task(open_sandbox("docker", options, image="any"))
    await asyncio.to_thread(begun.wait, 60)
    opening.cancel()
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    await asyncio.gather(opening, return_exceptions=True)
    assert opening.cancelled()
    assert closed == ["made"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works in the tree of another")
@pytest.mark.parametrize("kind", ["bubblewrap", "landlock"])
async def test_a_umask_closes_the_box_to_nobody(
    kind: str, options: BoxOptions, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kind == "bubblewrap" and (reason := bubblewrap.missing()):
        pytest.skip(reason)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
    let_others_in(Path(tempfile.gettempdir()))
    let_others_in(options.work_tree)
    os.chown(options.work_tree, 54321, 54321)
    before = os.umask(0o077)
    try:
        box = await open_sandbox(kind, options)
        made = await box.exec("touch made && touch $TMPDIR/made")
        await box.close()
    finally:
        os.umask(before)
    assert (made.exit_code, made.stderr) == (0, b"")


async def test_auto_never_takes_none_and_gives_the_way_out(
    options: BoxOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    monkeypatch.setattr(choose, "BEST_FIRST", (SandboxKind.DOCKER,))
    with pytest.raises(SandboxUnavailable, match=r"docker: no Docker daemon answers.*--sandbox none") as caught:
        await open_sandbox("auto", options)
    assert caught.value.exit_code == 5


async def test_none_only_by_name(options: BoxOptions) -> None:
    box = await open_sandbox("none", options)
    assert box.name == "none"
    await box.close()


async def test_diagnose_has_a_line_for_each_kind(options: BoxOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    facts = {fact.kind: fact for fact in await diagnose(options)}
    assert facts.keys() == {SandboxKind.DOCKER, SandboxKind.BUBBLEWRAP, SandboxKind.LANDLOCK}
    assert not facts[SandboxKind.DOCKER].available
    assert all(fact.detail for fact in facts.values())


async def test_no_daemon_is_a_fault_with_a_way_out(options: BoxOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    box = DockerSandbox(options, Image("any"))
    with pytest.raises(SandboxUnavailable, match="DOCKER_HOST"):
        await box.start()
    await box.close()


async def test_a_tree_that_vanished_is_lost(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    box = await open_sandbox("landlock", BoxOptions(tree))
    tree.rmdir()
    with pytest.raises(SandboxLost, match="is gone"):
        await box.exec("true")
    await box.close()


async def test_a_path_to_show_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="does not exist"):
        await open_sandbox("landlock", BoxOptions(tmp_path, read_only_paths=(tmp_path / "missing",)))


@pytest.mark.docker
async def test_a_container_removed_under_the_box_is_lost(options: BoxOptions) -> None:
    options.work_tree.chmod(0o755)
    box = await open_sandbox("docker", options)
    daemon = Daemon.connect()
    for container in daemon.owners():
        daemon.remove(container)
    daemon.close()
    with pytest.raises(SandboxLost):
        await box.exec("true")
    await box.close()
