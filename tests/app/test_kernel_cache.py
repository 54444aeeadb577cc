"""Compiled kernels have a place, also where somebody else installed kodkod."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kodkod_engine
from kodkod_app import paths
from kodkod_app.kernel_cache import VARIABLE, name_kernel_cache


@pytest.fixture
def protected(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The engine's folder, which nothing may be written to; a mode would not keep root from it."""
    folder = Path(kodkod_engine.__file__).parent
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: not Path(path).is_relative_to(folder) and access(path, mode)
    )  # fmt: skip
    return folder


def test_a_folder_is_named_where_none_can_be_written_to(protected: Path, home: Path) -> None:
    environment = {"HOME": "/root"}
    name_kernel_cache(environment)
    assert environment == {"HOME": "/root", VARIABLE: str(home / "cache" / "kernels")} == {
        "HOME": "/root", VARIABLE: str(paths.kernel_folder()),
    }  # fmt: skip


def test_what_the_person_named_stays(protected: Path) -> None:
    environment = {VARIABLE: "/there"}
    name_kernel_cache(environment)
    assert environment == {VARIABLE: "/there"}


def test_beside_their_source_they_need_no_folder() -> None:
    environment: dict[str, str] = {}
    name_kernel_cache(environment)
    assert environment == {}
