"""The conformance suite on the CPU build of vLLM, in an environment of its own: its pins are not ours."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from engine.backends.bench import Rule, ask, until
from engine.backends.vllm_bench import write_llama
from engine.backends.vllm_environment import make_environment
from kodkod_engine import load_engine
from kodkod_engine.api import FinishReason, collect
from kodkod_engine.backends.vllm_config import VllmConfig
from kodkod_engine.backends.vllm_server import connect
from kodkod_engine.benchmark.peers import open_peer
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer

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


@contextmanager
def real_server(python: Path, folder: Path) -> Iterator[str]:
    """vLLM's server with a tiny model; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--dtype", "float32", "--enforce-eager", "--skip-tokenizer-init", "--enable-prompt-tokens-details"]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--host", "127.0.0.1"]
    command += ["--port", port, "--block-size", 32, *options]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        while not answers(url):
            assert process.poll() is None, (folder / "server.log").read_text()[-4_000:]
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(120)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/models", trust_env=False).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


async def test_a_real_server_keeps_constraints_tells_its_cache_and_gives_up_when_left(python, tmp_path):
    write_llama(tmp_path, 4_096)
    write_byte_tokenizer(tmp_path)
    prompt = tuple(range(30, 100))
    with real_server(python, tmp_path) as url:
        engine = connect(url, VllmConfig())
        try:
            free = await collect(engine.generate(ask(prompt, 24, logprobs=3)))
            assert (len(free.token_ids), free.finish_reason) == (24, FinishReason.LENGTH)
            assert all(entry.top[0] == (entry.token_id, entry.logprob) for entry in free.logprobs)
            again = await collect(engine.generate(ask(prompt, 24)))
            assert (again.token_ids, again.usage.reused_tokens) == (free.token_ids, 64)

            # What the model would say, but for the eighth token; from there on as if that had been said.
            other = (free.token_ids[7] + 1) % engine.vocab_size
            chosen = {other, (other + 1) % engine.vocab_size} - {free.token_ids[7]}
            rule = Rule(lambda said: chosen if len(said) == 7 else None)
            held = await collect(engine.generate(ask(prompt, 24, constraint=rule)))
            assert held.token_ids[:7] == free.token_ids[:7]
            assert held.token_ids[7] in chosen
            rest = await collect(engine.generate(ask((*prompt, *held.token_ids[:8]), 16)))
            assert held.token_ids[8:] == rest.token_ids

            stream = engine.generate(ask(prompt, 4_000))
            chunks = aiter(stream)
            await anext(chunks)
            await chunks.aclose()
            assert (await collect(stream)).finish_reason is FinishReason.CANCELLED
            metrics = f"{url.removesuffix('/v1')}/metrics"
            await until(
                lambda: (
                    "vllm:num_requests_running" in (said := httpx2.get(metrics, trust_env=False).text)
                    and re.search(r"vllm:num_requests_running\{[^}]*\} 0\.0", said) is not None
                )
            )
        finally:
            engine.close()


def test_a_real_server_is_measured_as_a_peer(python, tmp_path, tiny_folder):
    write_llama(tmp_path, 4_096)
    write_byte_tokenizer(tmp_path)
    with real_server(python, tmp_path) as url, closing(load_engine(tiny_folder)) as engine:
        peer = open_peer(f"vllm:{url}", engine, tiny_folder)
        try:
            one, many = (min(peer.decode(batch, 64, 8) for _ in range(3)) for batch in (1, 8))
            assert 0 < one < many * 8
            assert peer.prefill(tuple(range(30, 230))) > 0
        finally:
            peer.close()


def test_vllm_keeps_the_contract(python):
    suite = TESTS / "engine" / "backends"
    said = run(python, str(suite / "test_conformance.py"), "--confcutdir", str(suite))
    found = re.search(r"(\d+) passed, (\d+) skipped", said)
    assert found, said[-2_000:]
    assert int(found[1]) >= 61
    assert "whole blocks" in said, "the gaps are named"


def test_vllm_in_this_process_does_what_its_docstring_says(python):
    suite = TESTS / "engine" / "backends"
    said = run(python, str(suite / "test_vllm_in_process.py"), "--confcutdir", str(suite))
    assert re.search(r"4 passed", said), said[-2_000:]


def test_the_plug_in_fits_vllms_classes(python):
    suite = TESTS / "engine" / "vllm_plugin"
    said = run(python, str(suite / "test_in_vllm.py"), "--confcutdir", str(suite))
    assert re.search(r"3 passed", said), said[-2_000:]
