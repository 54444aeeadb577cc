"""mini-swe-agent, as published, mends a package through `kodkod serve`: its own loop, its own shell, our engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import platformdirs
import pytest

from .conftest import FAULTY, FILE, SOUND, TARGET, Call, command, turn

MINI = "mini-swe-agent==2.4.6"
FINISH = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
TEST = f"{sys.executable} -m pytest -q -p no:cacheprovider {TARGET.partition('::')[0]} -k {TARGET.partition('::')[2]}"


def bash(text, line):
    """A turn that runs a command."""
    return turn(text, Call("bash", {"command": line}))


@pytest.fixture(scope="module")
def mini() -> Path:
    """Its Python, in an environment made once for this machine."""
    folder = platformdirs.user_cache_path("kodkod-tests", ensure_exists=True) / MINI.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", MINI]
        subprocess.run(install, check=True, timeout=1_200)
        (folder / "complete").touch()
    return python


@pytest.mark.slow
def test_it_mends_a_package(mini, repository, record, tmp_path):
    edit = f"{sys.executable} -c \"import pathlib; p = pathlib.Path('{FILE}'); p.write_text(p.read_text()"
    edit += f".replace('{FAULTY.strip()}', '{SOUND.strip()}'))\""
    model = record(
        bash("I run the test.", TEST),
        bash("I look where it fails.", f"grep -n 'def prepend' -A 14 {FILE}"),
        bash("The order is wrong; I mend it.", edit),
        bash("Again.", TEST),
        bash("It passes.", FINISH),
    )
    serving = command("serve", "-m", model, "--name", "wildcat", "--port", "0")
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            done = run_mini(mini, repository, url, tmp_path)
            counts = httpx.get(url.removesuffix("/v1") + "/health").json()
        finally:
            server.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "trajectory.json").read_text())
    assert found["info"]["exit_status"] == "Submitted"
    assert found["info"]["model_stats"]["api_calls"] == 5
    assert (repository / FILE).read_text().count(SOUND) == 1
    results = [message["extra"]["returncode"] for message in found["messages"] if message["role"] == "tool"]
    assert results == [1, 0, 0, 0]
    # Only what mini-swe-agent added was computed; its first prompts are longer than all that comes later.
    assert counts["reused_tokens"] / counts["prompt_tokens"] > 0.6


def run_mini(python, repository, url, folder):
    """Its own command, pointed at our server, in its own environment."""
    settings = [f"model_kwargs.api_base={url}", "model_kwargs.api_key=any", "cost_tracking=ignore_errors"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [
            *(python, "-m", "minisweagent.run.mini", "--model", "openai/wildcat", "--yolo", "--exit-immediately"),
            *("--task", "prepend puts the value at the end", "--output", folder / "trajectory.json"),
            *("--environment-class", "local", "--agent-class", "default", "--config", "mini.yaml"),
            *(part for setting in settings for part in ("--config", f"model.{setting}")),
        ],
        cwd=repository,
        env={
            **variables,
            "MSWEA_CONFIGURED": "true",
            "MSWEA_GLOBAL_CONFIG_DIR": str(folder / "mini"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
