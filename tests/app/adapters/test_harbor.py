"""An agent of Harbor's, against its interface as its wheel has it: commands run in the environment it made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from kodkod_app.adapters import harbor


class BaseAgent:
    """As the wheel's: abstract but for these."""

    def __init__(self, logs_dir, model_name=None, **kwargs):
        self.logs_dir, self.model_name = logs_dir, model_name


@dataclass
class Environment:
    ran: list[tuple[str, int]] = field(default_factory=list)

    async def exec(self, command, cwd=None, env=None, timeout_sec=None, user=None):
        self.ran.append((command, timeout_sec))
        if command == "sleep":
            raise TimeoutError
        if command == "sleep in Docker":
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        if command == "break":
            raise RuntimeError("the container is gone")
        return SimpleNamespace(stdout=f"out of {command}" + "x" * 20_000, stderr=None, return_code=3)


def test_it_works_in_harbors_environment(install, says, tmp_path):
    install(harbor__agents__base={"BaseAgent": BaseAgent})
    kind = harbor.KodkodAgent
    assert issubclass(kind, BaseAgent)
    agent = kind(tmp_path / "logs", model_name="kodkod/nano")
    agent.kodkod_model = says(
        [("shell", {"command": "ls"}), ("shell", {"command": "sleep", "timeout_s": 5})],
        [("shell", {"command": "sleep in Docker", "timeout_s": "soon"})],
        [("other", {"x": 1})],
        "Done.",
    )
    assert (agent.name(), bool(agent.version())) == ("kodkod", True)
    environment = Environment()
    context = SimpleNamespace(n_input_tokens=None, n_cache_tokens=None, n_output_tokens=None)
    asyncio.run(agent.setup(environment))
    asyncio.run(agent.run("List the files.", environment, context))
    assert environment.ran == [("ls", 120), ("sleep", 5), ("sleep in Docker", 120)]
    assert context.n_output_tokens > 0
    assert 0 < context.n_cache_tokens < context.n_input_tokens
    kept = next((tmp_path / "logs").iterdir()).read_text()
    assert len(kept) > 1000


def test_without_harbor():
    with pytest.raises(ImportError):
        _ = harbor.KodkodAgent
    with pytest.raises(AttributeError, match="no attribute"):
        _ = harbor.Other


def test_an_environment_that_breaks_ends_the_trial(install, says, tmp_path):
    install(harbor__agents__base={"BaseAgent": BaseAgent})
    agent = harbor.KodkodAgent(tmp_path / "logs", model_name="kodkod/nano")
    agent.kodkod_model = says([("shell", {"command": "break"})], "Done.")
    context = SimpleNamespace(n_input_tokens=None, n_cache_tokens=None, n_output_tokens=None)
    with pytest.raises(RuntimeError, match="the container is gone"):
        asyncio.run(agent.run("Break it.", Environment(), context))
