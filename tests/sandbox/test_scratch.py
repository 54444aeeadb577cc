from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from kodkod_sandbox.errors import SandboxUnavailable
from kodkod_sandbox.launcher.spec import Identity
from kodkod_sandbox.scratch import make_scratch
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
