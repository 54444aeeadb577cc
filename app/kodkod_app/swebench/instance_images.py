"""An image for each instance that stands on a release: the official container's contract, on kodkod's own base.

    /testbed         the work tree, one commit, root's
    /opt/testbed     Python with what the tests need, without the release itself; first on PATH

Wheels are fetched once for each release, on this machine; the build itself has no network.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kodkod_app import paths
from kodkod_app.repair_eval.packages import PackageFault
from kodkod_app.swebench.grounds import Grounds, ReleaseGround
from kodkod_app.swebench.rows import Row
from kodkod_app.swebench.work_tree import make_single_commit
from kodkod_sandbox.image_files import build_from_base, has_image

VENV = "/opt/testbed"
_TIMEOUT_S = 600.0
_DOCKERFILE = f"""\
FROM {{base}}
COPY wheels /tmp/wheels
RUN ["python3", "-m", "venv", "--without-pip", "{VENV}"]
RUN python3 -m pip --python {VENV}/bin/python install --no-index --no-deps --no-cache-dir /tmp/wheels/*.whl
ENV VIRTUAL_ENV={VENV} PATH={VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
COPY tree /testbed
WORKDIR /testbed
"""


def image_name(instance_id: str, machine: str) -> str:
    """The tag the official package would give."""
    arch = "arm64" if machine in ("arm64", "aarch64") else "x86_64"
    return f"sweb.eval.{arch}.{instance_id.lower()}:latest"


def build_missing(rows: Sequence[Row], grounds: Grounds, tell: Callable[[str], None]) -> None:
    """Build the images of rows that stand on a release and have none yet. Blocks.

    Raises:
        SandboxError: there is no daemon, or a build fails.
        PackageFault: a release or its wheels cannot be had.
    """
    for row in rows:
        if row.image and not has_image(row.image):
            tell(f"{row.instance_id}: building {row.image}")
            _build(row, grounds)


def _build(row: Row, grounds: Grounds) -> None:
    assert row.image is not None, "asked for by `build_missing`"
    ground = grounds.of(row)
    assert isinstance(ground, ReleaseGround), "an image that is missing is not its ground"
    with tempfile.TemporaryDirectory(prefix="kodkod-image-") as name:
        folder = Path(name)
        ground.lay_out(folder / "tree")
        make_single_commit(folder / "tree")
        shutil.copytree(_wheels(ground), folder / "wheels")
        build_from_base(folder, _DOCKERFILE, row.image)


def _wheels(ground: ReleaseGround) -> Path:
    """What the environment has besides pip and the release, as wheels; fetched once."""
    folder = paths.cache_folder() / "swebench" / ground.package.spec.pinned.replace("==", "-") / "wheels"
    if (folder / ".ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    frozen = _pip(str(ground.environment / "bin" / "python"), "freeze").splitlines()
    own = ground.package.spec.name.lower().replace("_", "-")
    wanted = [line for line in frozen if "==" in line and line.partition("==")[0].lower().replace("_", "-") != own]
    _pip(sys.executable, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), *wanted)
    (folder / ".ready").touch()
    return folder


def _pip(python: str, *arguments: str) -> str:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as fault:
        raise PackageFault(f"pip {arguments[0]}: took more than {_TIMEOUT_S:g} s; check the network") from fault
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["failed without a word"])[-1]
        raise PackageFault(f"pip {arguments[0]}: {last}; check the network")
    return done.stdout
