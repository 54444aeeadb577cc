"""What the scripted back end has of its own: recordings, their end, their pace."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.backends.bench import Dictation, answer_to, ask
from kodkod_engine.api import FinishReason, Speculation
from kodkod_engine.backends.scripted import ScriptedEngine, replay
from kodkod_engine.errors import RequestError
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.speculator import Speculator
from kodkod_engine.speculation.suffix import SuffixDrafter

HOME = Path(__file__).parents[3] / "engine"


@pytest.fixture
def scripted():
    """Engines over a script, closed at the end."""
    engines = []

    def build(script, **options):
        engines.append(ScriptedEngine(script, vocab_size=100, **options))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


async def test_recorded_answers_come_one_after_another(scripted):
    engine = scripted(replay([[5, 6], [7]]))
    first = await answer_to(engine, [1], ignore_eos=False)
    second = await answer_to(engine, [1], ignore_eos=False)
    assert (first.token_ids, second.token_ids) == ((5, 6, 2), (7, 2))
    assert first.finish_reason is second.finish_reason is FinishReason.STOP


async def test_a_recording_that_is_over_is_said_so(scripted):
    engine = scripted(replay([[5]]))
    await answer_to(engine, [1], ignore_eos=False)
    with pytest.raises(RequestError, match="recording is over"):
        engine.generate(ask([1]))


async def test_a_script_answers_by_the_prompt(scripted):
    engine = scripted(lambda prompt: [token_id + 1 for token_id in prompt])
    assert (await answer_to(engine, [10, 20], 2)).token_ids == (11, 21)


async def test_where_the_recording_is_forbidden_the_lowest_id_is_said(scripted):
    engine = scripted(replay([[5, 6, 7]]))
    assert (await answer_to(engine, [1], 3, constraint=Dictation([5, 9]))).token_ids == (5, 9, 7)


async def test_an_answer_has_the_pace_asked_for(scripted):
    engine = scripted(replay([[5] * 10]), seconds_per_step=0.005)
    begin = time.monotonic()
    await answer_to(engine, [1], 10)
    assert time.monotonic() - begin >= 0.05


async def test_it_can_be_drafted_for_by_what_its_steps_take(scripted):
    speculator = Speculator([SuffixDrafter()], CostTable(), default=Speculation.AUTO, vocab_size=100)
    engine = scripted(replay([[5, 6, 7]]), speculator=speculator)
    assert (await answer_to(engine, [1], 3)).token_ids == (5, 6, 7)
    assert speculator.costs.is_measured


def test_it_loads_no_torch():
    program = "import sys, kodkod_engine.backends.scripted; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(HOME)}, check=False)
    assert done.returncode == 0
