"""Which boxes the probes run on here, and one open bench for each."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from kodkod_sandbox import bubblewrap
from kodkod_sandbox.conformance import open_bench
from kodkod_sandbox.probes import Bench
from reachable import let_others_in

IS_ROOT = os.geteuid() == 0
SMALL_FLOOD_BYTES = 100_000_000
"""A gigabyte proves the same once for all boxes that share a launcher."""


def require(target: str) -> None:
    """Skip where bwrap is not installed; in continuous integration that is a failure."""
    if target == "bubblewrap" and (reason := bubblewrap.missing()):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Bench, None]:
    target = request.param
    require(target)
    parent = tmp_path_factory.mktemp(target)
    let_others_in(parent)  # the box's user is another than root, and must be able to come here
    async with open_bench(target, Path(parent)) as bench:
        if target in ("none", "bubblewrap"):
            bench.flood_bytes = SMALL_FLOOD_BYTES
        yield bench
