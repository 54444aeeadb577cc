"""The same probes once more as an ordinary user, when the suite itself is run by root."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import pytest_asyncio

import kodkod_sandbox
from kodkod_sandbox import bubblewrap
from kodkod_sandbox.conformance import gaps
from kodkod_sandbox.probes import all_probes, containment, limits
from reachable import let_others_in

from .conftest import IS_ROOT, require

UID = 54321
"""Nobody's on a usual system."""
SOME = [probe.name for probe in (*containment.PROBES, *limits.PROBES) if probe.name != "output_cap"]
RUNS = {
    "landlock-user": [probe.name for probe in all_probes() if probe.name != "output_cap"],
    "landlock-bare": [probe.name for probe in all_probes() if probe.name != "output_cap"],
    "bubblewrap": SOME,
}
pytestmark = pytest.mark.skipif(not IS_ROOT, reason="the suite runs as an ordinary user already")


def interpreter() -> str | None:
    """A Python other users may execute: root's own may lie in root's home."""
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        real = Path(path).resolve()
        if real.exists() and all(folder.stat().st_mode & 0o001 for folder in real.parents):
            return path
    return None


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, object]] | str]:
    """What each target's probes found, run side by side; or why they could not run."""
    home = tmp_path_factory.mktemp("home")
    (home / "notes").write_text("the user's own", encoding="utf-8")
    let_others_in(home)
    targets = [target for target in RUNS if target != "bubblewrap" or bubblewrap.missing() is None]
    found = await asyncio.gather(*(probe_as_user(target, home) for target in targets))
    return dict(zip(targets, found, strict=True))


async def probe_as_user(target: str, home: Path) -> dict[str, dict[str, object]] | str:
    python, setpriv = interpreter(), shutil.which("setpriv")
    if python is None or setpriv is None:
        pytest.skip("no Python that others may execute, or no setpriv")
    packages = str(Path(kodkod_sandbox.__path__[0]).parent)
    start = f"import sys; sys.path[:0] = {[packages, *site_packages()]!r}; sys.argv[0] = 'conformance'; "
    start += "from kodkod_sandbox.conformance import main; sys.exit(main())"
    run = await asyncio.create_subprocess_exec(
        *(setpriv, f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
        *(python, "-c", start, target, *RUNS[target]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    stdout, stderr = await run.communicate()
    lines = [json.loads(line) for line in stdout.splitlines()]
    return {line["probe"]: line for line in lines} if len(lines) == len(RUNS[target]) else stderr.decode()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("target", RUNS)
async def test_box_holds_for_an_ordinary_user(
    target: str, outcomes: dict[str, dict[str, dict[str, object]] | str]
) -> None:
    require(target)
    found = outcomes[target]
    assert isinstance(found, dict), found
    failed = {name: line["detail"] for name, line in found.items() if not line["held"]}
    assert failed.keys() == gaps(target, as_root=False).keys() & found.keys(), failed


def site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]
