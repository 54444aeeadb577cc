"""`-m vllm:...`: the name, what is opened, and what is said where it cannot be."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.backends.fake_vllm_server import VOCAB_SIZE, FakeServer, serving
from kodkod_app.bootstrap import absolute_name, open_model, require_folder, require_model
from kodkod_app.offline import open_tokenizer
from kodkod_app.settings import load_settings
from kodkod_app.tui.desk import short_name
from kodkod_engine.api import FinishReason, GenerationRequest, SamplingParams, collect
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import BackendMissing, CheckpointMissing

URL = "vllm:http://127.0.0.1:8000/v1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_byte_tokenizer(folder)
    (folder / "config.json").write_text(f'{{"vocab_size": {VOCAB_SIZE}}}')
    return folder


def test_an_address_is_a_name_from_anywhere(tmp_path, monkeypatch):
    assert require_model(URL) == absolute_name(URL) == URL
    assert short_name(URL) == "127.0.0.1:8000"
    monkeypatch.chdir(tmp_path)
    assert absolute_name("vllm:here") == f"vllm:{tmp_path / 'here'}"
    with pytest.raises(CheckpointMissing, match="no checkpoint folder"):
        require_model("vllm:here")
    for name in (URL, "script:recording.jsonl"):
        with pytest.raises(CheckpointMissing):
            require_folder(name, "kodkod bench")


def test_a_session_of_such_a_model_is_opened_by_its_tokenizer_alone(folder):
    assert open_tokenizer(f"vllm:{folder}").fingerprint == open_tokenizer(str(folder)).fingerprint
    with pytest.raises(CheckpointMissing, match="with -m DIR"):
        open_tokenizer(URL)


def test_a_model_of_a_server_is_opened_and_answers(folder):
    with serving(FakeServer(folder)) as server:
        model = open_model(f"vllm:{server.url}", EngineConfig())
        try:
            ids = tuple(model.tokenizer.encode_text("def add(a, b):"))
            done = asyncio.run(collect(model.engine.generate(GenerationRequest(ids, SamplingParams(max_tokens=5)))))
        finally:
            model.engine.close()
    assert server.bodies[0]["prompt"] == list(ids)
    assert done.finish_reason in (FinishReason.LENGTH, FinishReason.STOP)


def test_the_settings_reach_the_engine(folder, tmp_path):
    environment = {"KODKOD_ENGINE__VLLM__TENSOR_PARALLEL_SIZE": "4", "KODKOD_ENGINE__VLLM__TOKENIZER": str(folder)}
    settings = load_settings(tmp_path, trusted=True, environment=environment)
    assert settings.engine.vllm.engine_arguments()["tensor_parallel_size"] == 4
    with serving(FakeServer(tmp_path)) as server:
        open_model(f"vllm:{server.url}", settings.engine).engine.close()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_one_line_says_what_to_install(folder):
    with pytest.raises(BackendMissing, match=r"pip install 'kodkod\[vllm\]'") as refusal:
        open_model(f"vllm:{folder}", EngineConfig())
    assert refusal.value.exit_code == 4


def test_a_server_that_is_not_there_is_4_and_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = [sys.executable, "-m", "kodkod_app", "-p", "hi", "-C", str(tmp_path)]
    command += ["-m", f"vllm:http://127.0.0.1:{port}/v1", "--sandbox", "none", "--permission-mode", "plan"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 4, done.stderr
    assert f"no server answers at http://127.0.0.1:{port}/v1" in done.stderr
    assert "Traceback" not in done.stderr
