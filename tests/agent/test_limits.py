"""What a run may use."""

import time

import pytest

from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import LimitReached
from kodkod_agent.limits import Stopwatch, remaining, require_more
from kodkod_agent.state import Status, new_run


def state_after(turns=0, tokens=0, *, before=7):
    return {**new_run("go", step=before), "step": before + turns, "generated_tokens": tokens}


def test_what_is_left_counts_this_run_alone():
    left = remaining(AgentConfig(max_turns=10, max_tokens=100, timeout_s=60), state_after(3, 40), 15.0)
    assert (left.turns, left.tokens, left.seconds) == (7, 60, 45.0)


@pytest.mark.parametrize(
    ("turns", "tokens", "seconds", "named"),
    [(10, 0, 0.0, "10 turns"), (0, 100, 0.0, "100 generated tokens"), (0, 0, 60.0, "60 seconds")],
)
def test_each_limit_ends_the_run_with_a_cause_and_a_way_out(turns, tokens, seconds, named):
    config = AgentConfig(max_turns=10, max_tokens=100, timeout_s=60)
    with pytest.raises(LimitReached, match=named) as caught:
        require_more(config, state_after(turns, tokens), seconds)
    assert caught.value.status is Status.LIMIT
    assert named in caught.value.messages[0]
    assert require_more(config, state_after(9, 99), 59.0).turns == 1


def test_a_stopwatch_stands_still_when_stopped_and_goes_on_from_before(monkeypatch):
    now_s = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    watch = Stopwatch()
    watch.start(100.0)
    now_s += 2.0
    assert watch.seconds == 102.0
    counted = watch.stop()
    now_s += 7.0
    assert counted == watch.seconds == 102.0
    watch.start(counted)
    now_s += 1.0
    assert watch.seconds == 103.0


def test_exit_codes_are_those_of_the_command():
    assert {status: status.exit_code for status in Status} == {
        Status.RUNNING: 1,
        Status.DONE: 0,
        Status.UNVERIFIED: 3,
        Status.LIMIT: 124,
        Status.INTERRUPTED: 130,
        Status.FAULT: 1,
    }
