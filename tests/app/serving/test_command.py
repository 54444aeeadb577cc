"""`kodkod serve` as a process: what it prints, how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

import openai
import pytest


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "wildcat.jsonl"
    path.write_text(json.dumps({"text": "Meow."}) + "\n")
    return f"script:{path}"


def start(*arguments):
    command = [sys.executable, "-m", "kodkod_app", "serve", "--port", "0", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process, number):
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(recording, number):
    process = start("-m", recording)
    url = process.stdout.readline().strip()
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        (model,) = client.models.list().data
        reply = client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "Hi"}])
    code, out, err = ended(process, number)
    assert (model.id, reply.choices[0].message.content) == ("wildcat", "Meow.")
    assert (code, out) == (0, "")
    assert "serving wildcat" in err
    assert "chat: 4 prompt tokens, 0 reused; 6 written" in err
    assert "warning" not in err


def test_another_host_is_a_warning_and_a_key_is_read(recording, tmp_path):
    (tmp_path / "key").write_text("s3cret\n")
    process = start("-m", recording, "--host", "0.0.0.0", "--name", "cat", "--quiet")
    url = process.stdout.readline().strip()
    port = url.rpartition(":")[2].removesuffix("/v1")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client:
        assert client.chat.completions.create(model="cat", messages=[{"role": "user", "content": "Hi"}]).id
    _, _, err = ended(process, signal.SIGINT)
    assert "warning: 0.0.0.0 can be reached from other machines, unencrypted, with NO key" in err
    assert "prompt tokens" not in err


def test_what_cannot_be_served_is_one_line(kodkod, recording, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = kodkod("serve", "-m", recording, "--port", taken.getsockname()[1])
    assert found.code == 1
    assert "cannot be listened on (Address already in use); choose others" in found.err
    (tmp_path / "key").write_text("\n")
    assert kodkod("serve", "-m", recording, "--api-key-file", tmp_path / "key").code == 2
    missing = kodkod("serve", "-m", tmp_path / "nothing", "--port", "0")
    assert (missing.code, missing.err.count("\n")) == (4, 1)
