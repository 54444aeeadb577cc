from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from kodkod_sandbox import scratch
from kodkod_sandbox.errors import SandboxUnavailable
from kodkod_sandbox.launcher.spec import Identity
from kodkod_sandbox.scratch import make_scratch, remove_scratch
from kodkod_sandbox.translated import make_view, reap_views


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files in which somebody else was quicker."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_place_that_others_may_write_to_is_not_used(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    for name in ("kodkod-0", "kodkod-views"):
        (shared / name).mkdir()
        (shared / name).chmod(0o777)
    with pytest.raises(SandboxUnavailable, match="not a folder of this user alone"):
        make_scratch(0, 0)
    with pytest.raises(SandboxUnavailable, match="not a folder of this user alone"):
        make_view(shared, Identity(1, 1, 1, 1, 0, 0))
    with pytest.raises(SandboxUnavailable, match="not a folder of this user alone"):
        reap_views()


def test_a_link_is_no_place(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (shared / "elsewhere").mkdir()
    (shared / "kodkod-views").symlink_to(shared / "elsewhere")
    with pytest.raises(SandboxUnavailable, match="not a folder of this user alone"):
        make_view(shared, Identity(1, 1, 1, 1, 0, 0))
    assert list((shared / "elsewhere").iterdir()) == []


def test_a_umask_does_not_close_it_to_the_boxs_user(shared: Path) -> None:
    before = os.umask(0o077)
    try:
        made = make_scratch(os.geteuid(), os.getegid())
    finally:
        os.umask(before)
    assert made.parent.stat().st_mode & 0o777 == 0o711


def test_nothing_is_removed_through_a_mount(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel spells a space in its list of mounts as an escape."""
    odd = shared / "a b"
    (odd / "stage" / "0").mkdir(parents=True)
    (odd / "stage" / "0" / "mine").write_text("")
    listed = shared / "mountinfo"
    listed.write_text(f"36 35 98:0 / {odd}/stage/0 rw - ext4 /dev/sda rw\n".replace("a b", r"a\040b"))
    monkeypatch.setattr(scratch, "_MOUNTS", listed)
    remove_scratch(odd)
    assert (odd / "stage" / "0" / "mine").exists()
    listed.write_text("")
    remove_scratch(odd)
    assert not odd.exists()
