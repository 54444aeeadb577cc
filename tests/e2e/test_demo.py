"""What `make run` runs: the model that comes along mends the example, in the box that every Linux has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(400)
def test_the_example_is_mended_and_verified(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KODKOD_")}
    command = [str(Path(sys.executable).with_name("kodkod")), "demo", "--sandbox", "landlock"]
    ended = subprocess.run(
        command,
        env={**environment, "KODKOD_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "tests after" in ended.stdout + ended.stderr
    assert "-        return self.start <= other.end" in ended.stdout, "the change is shown"
