"""The OpenAPI document against the server itself, by schemathesis."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest

from kodkod_app.serving.application import Access

from .conftest import served, slow_model

KEY = "s3cret"
SETTINGS = """\
[phases.stateful]
enabled = false
"""


def check(url, folder, *options):
    """Run schemathesis; its report."""
    (folder / "schemathesis.toml").write_text(SETTINGS)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url),
        *("--header", f"Authorization: Bearer {KEY}", "--no-color", "--seed", "1", "--workers", "1"),
        *("--suppress-health-check", "all", "--generation-database", "none"),
        # A schema cannot say that results of tools follow their calls, or that a token id is one of the vocabulary.
        *("--exclude-checks", "positive_data_acceptance", *options),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running():
    with served(slow_model("Yes.", seconds_per_step=0, context_tokens=800), Access(api_key=KEY)) as found:
        yield found


def test_the_document_names_what_there_is(running):
    found = httpx.get(running.url.removesuffix("/v1") + "/openapi.json").json()
    assert sorted(found["paths"]) == [
        "/health",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/models",
        "/v1/models/{model}",
    ]
    assert found["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    names = set(found["components"]["schemas"])
    assert {"ChatRequest", "ChatReply", "ChatChunk", "ErrorReply"} <= names
    used = {part.partition('"')[0] for part in json.dumps(found).split("#/components/schemas/")[1:]}
    assert used <= names


def test_answers_are_as_the_document_says(running, tmp_path):
    code, report = check(running.url.removesuffix("/v1"), tmp_path, "--phases", "examples,fuzzing", "-n", "6")
    assert code == 0, report


@pytest.mark.slow
def test_answers_are_as_the_document_says_at_length(running, tmp_path):
    code, report = check(
        running.url.removesuffix("/v1"), tmp_path, "--phases", "examples,coverage,fuzzing", "-n", "400"
    )
    assert code == 0, report
