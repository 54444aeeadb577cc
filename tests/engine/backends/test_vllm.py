"""The conformance suite on the CPU build of vLLM, in an environment of its own: its pins are not ours."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from engine.backends.vllm_environment import make_environment

TESTS = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5_400)]


@pytest.fixture(scope="module")
def python() -> Path:
    return make_environment()


def run(python: Path, *arguments: str) -> str:
    """pytest in that environment, with vLLM as the one back end; what it printed."""
    # vLLM's kernels check that every step has as many threads as the first: one, whatever the machine has.
    settings = {"KODKOD_TEST_VLLM": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    settings |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    # Warnings are those of vLLM and its pins; a conftest above would load llvmlite, beside which vLLM does not start.
    options = ["-q", "-p", "no:cacheprovider", "-W", "default", "-m", "", "--timeout", "900"]
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, *arguments],
        cwd=TESTS.parent,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=5_000,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-4_000:]
    return done.stdout


def test_vllm_keeps_the_contract(python):
    suite = TESTS / "engine" / "backends"
    said = run(python, str(suite / "test_conformance.py"), "--confcutdir", str(suite))
    found = re.search(r"(\d+) passed, (\d+) skipped", said)
    assert found, said[-2_000:]
    assert int(found[1]) >= 60
    assert "whole blocks" in said, "the gaps are named"


def test_the_plug_in_fits_vllms_classes(python):
    suite = TESTS / "engine" / "vllm_plugin"
    said = run(python, str(suite / "test_in_vllm.py"), "--confcutdir", str(suite))
    assert re.search(r"3 passed", said), said[-2_000:]
