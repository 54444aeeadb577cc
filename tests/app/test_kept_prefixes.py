"""What the model computed of a conversation is there for the next process."""

from __future__ import annotations

import json

import pytest

from kodkod_app import paths
from kodkod_app.bootstrap import demonstration_checkpoint, keeping_prefixes
from kodkod_engine.config import EngineConfig
from kodkod_engine.kv.segments import SEGMENT_TOKENS


@pytest.fixture
def ask(kodkod, project, monkeypatch):
    """Asks the random model, loaded anew; how many prompt tokens were computed and how many reused."""
    monkeypatch.setenv("KODKOD_AGENT__MAX_TURN_TOKENS", "16")
    model = str(demonstration_checkpoint())

    def run(*more):
        asked = ("-C", project, "-m", model, "--max-turns", 1, "--sandbox", "none", "--output-format", "json")
        found = kodkod("-p", "hello", *asked, *more)
        assert found.code in (0, 124), found.err
        usage = json.loads(found.out)["usage"]
        return usage["input_tokens"], usage["cache_read_input_tokens"]

    return run


def test_a_conversation_begins_where_another_process_ended_one(ask):
    computed, reused = ask()
    assert (reused, computed > 4 * SEGMENT_TOKENS) == (0, True)
    again = ask()
    assert again[0] <= SEGMENT_TOKENS
    assert sum(again) == computed
    assert ask("-c")[1] > computed - SEGMENT_TOKENS, "and goes on from where it was"


def test_a_person_who_wants_nothing_kept_keeps_nothing(ask, monkeypatch):
    monkeypatch.setenv("KODKOD_ENGINE__KV_FOLDER_BYTES", "0")
    ask()
    assert ask()[1] == 0
    assert not paths.kv_folder().exists()


def test_where_computing_is_quick_prefixes_are_kept_on_request_alone(tmp_path):
    assert keeping_prefixes(EngineConfig(device="cuda")).kv_folder is None
    chosen = EngineConfig(device="cuda", kv_folder=str(tmp_path))
    assert keeping_prefixes(chosen) is chosen
    assert keeping_prefixes(EngineConfig(device="cpu")).kv_folder == str(paths.kv_folder())
