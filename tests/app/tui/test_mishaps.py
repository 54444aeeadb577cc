"""What the machine and a slip of the hand do to it: files that are gone or cannot be read, names that no file has."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from textual.widgets import Input

from kodkod_agent.session import Session
from kodkod_app import paths
from kodkod_app.tui import store as s
from kodkod_sandbox.errors import SandboxError

from ..conftest import turn


async def _shows(driver, words):
    await driver.until(lambda: words in " ".join(driver.screen_text().split()), words)


async def _said(driver):
    await driver.opened()
    await driver.say("hi")
    await driver.idle()


async def test_a_copy_of_a_session_s_folder_is_not_listed_as_a_second_one(open_app, record):
    async with open_app(record(turn("Yes."))) as driver:
        await _said(driver)
        root = paths.sessions_folder()
        shutil.copytree(root / driver.app.session_id, root / f"{driver.app.session_id}-copy")
        await driver.pilot.press("f2")
        await _shows(driver, "Sessions 1 of /")


def _told(driver, monkeypatch):
    """What is notified from now on, which tests do not draw."""
    told = []
    monkeypatch.setattr(driver.app, "notify", lambda words, **_: told.append(words))
    return told


@pytest.mark.parametrize("command", ["/rewind", "/export"])
async def test_a_session_whose_folder_is_gone_is_told_of(open_app, record, monkeypatch, command):
    async with open_app(record(turn("Yes."))) as driver:
        await _said(driver)
        told = _told(driver, monkeypatch)
        shutil.rmtree(paths.sessions_folder() / driver.app.session_id)
        await driver.say(command)
        if command == "/export":
            await _shows(driver, "Export this session")
            await driver.pilot.press("enter")
        await driver.until(lambda: "no session '" in " ".join([driver.screen_text(), *told]), "the fault")


@pytest.mark.parametrize(
    "path",
    [
        "~nobody-of-this-name/x",
        "a" * 300,
        pytest.param("shut/x", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")),
    ],
)
async def test_a_path_that_cannot_be_looked_at_is_told_of(open_app, record, project, path):
    (project / "shut").mkdir(mode=0)
    async with open_app(record(turn("Yes."))) as driver:
        await _said(driver)
        await driver.say("/export")
        await _shows(driver, "Export this session")
        driver.app.screen.query_one(Input).value = path
        await driver.pilot.press("enter")
        await _shows(driver, "cannot be written")


@pytest.mark.parametrize("command", ["/fork", "/rewind"])
@pytest.mark.parametrize("number", ["9" * 5_000, "last"])
async def test_what_is_no_step_is_told(open_app, record, monkeypatch, command, number):
    async with open_app(record(turn("Yes."))) as driver:
        await _said(driver)
        told, session_id = _told(driver, monkeypatch), driver.app.session_id
        await driver.say(f"{command} {number}")
        await driver.until(lambda: any("is no step" in words for words in told), "the fault")
        await driver.idle()
        assert driver.app.session_id == session_id


async def test_a_model_in_the_home_of_nobody_is_told_and_the_doctor_looks_on(open_app):
    async with open_app("~nobody-of-this-name/model") as driver:
        await driver.until(lambda: driver.app.is_shut, "the fault")
        assert "there is no checkpoint folder" in driver.entries(s.Note)[0].text
        await driver.say("/doctor")
        await _shows(driver, "things are missing")


async def test_a_command_that_its_box_failed_does_not_run_on(open_app, record, monkeypatch):
    async def fail(*_):
        raise SandboxError("the daemon is gone")
        yield

    async with open_app(record(turn("Yes."))) as driver:
        await driver.opened()
        monkeypatch.setattr(type(driver.app.workbench._desk.box), "exec_stream", fail)
        await driver.say("!ls")
        await _shows(driver, "the daemon is gone")
        assert [one.exit_code for one in driver.entries(s.ShellRun)] == [125]


async def test_a_full_disk_while_a_conversation_is_shortened_ahead_ends_that_alone(open_app, record, monkeypatch):
    async def compact(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield

    async with open_app(record(turn("Yes."), turn("Again."))) as driver:
        await driver.opened()
        monkeypatch.setattr(Session, "is_nearly_full", property(lambda _: True))
        monkeypatch.setattr(Session, "compact", compact)
        await _said(driver)
        await _shows(driver, "no room is left on the disk")
        await driver.say("once more")
        await _shows(driver, "Again.")
