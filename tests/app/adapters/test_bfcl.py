"""BFCL: its files as a suite, and a handler against its interface as its wheel has it."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from kodkod_app.adapters import bfcl
from kodkod_app.evaluation.agents import AgentKind
from kodkod_app.evaluation.records import TrialsKept
from kodkod_app.evaluation.running import Evaluation, TrialPlan
from kodkod_app.evaluation.suite import SuiteFault
from kodkod_app.evaluation.suite_files import load_suite
from kodkod_app.settings import Settings

FUNCTION = {
    "name": "geometry.area",
    "description": "Area.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer"},
            "height": {"type": "float"},
            "options": {"type": "dict", "properties": {"unit": {"type": "string"}}},
            "points": {"type": "tuple", "items": {"type": "float"}},
        },
        "required": ["base", "height"],
    },
}
ANSWER = {
    "geometry.area": {"base": [10], "height": [5.0], "options": [{"unit": ["cm", ""]}, ""], "points": ["", [1.5]]}
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    (folder / "possible_answer").mkdir(parents=True)
    question = [[{"role": "system", "content": "Be exact."}, {"role": "user", "content": "Area of 10 by 5?"}]]
    for category in ("simple_python", "irrelevance"):
        entry = {"id": f"{category}_0", "question": question, "function": [FUNCTION]}
        (folder / f"BFCL_v4_{category}.json").write_text(json.dumps(entry) + "\n")
    answers = {"id": "simple_python_0", "ground_truth": [ANSWER]}
    (folder / "possible_answer" / "BFCL_v4_simple_python.json").write_text(json.dumps(answers) + "\n")
    monkeypatch.setenv(bfcl.DATA_VARIABLE, str(folder))
    return folder


@pytest.mark.parametrize(("category", "agent", "passes"), [
    ("simple_python", AgentKind.REFERENCE, True), ("simple_python", AgentKind.NOTHING, False),
    ("simple_python", AgentKind.WRONG, False), ("irrelevance", AgentKind.REFERENCE, True),
    ("irrelevance", AgentKind.WRONG, False),
])  # fmt: skip
def test_a_category_is_a_suite(category, agent, passes, data, tmp_path):
    suite = load_suite(f"bfcl:{category}")
    task = suite.tasks[0]
    assert (task.policy, task.prompt, task.category) == ("Be exact.", "Area of 10 by 5?", category)
    tool = suite.world_of(task).tools[0]
    assert tool.spec.parameters["required"] == ["base", "height"]
    assert {name: schema["type"] for name, schema in tool.parameters.items()} == {
        "base": "integer", "height": "number", "options": "object", "points": "array",
    }  # fmt: skip
    plan = TrialPlan([suite], 1, 1, agent, Settings(), tmp_path)
    asyncio.run(Evaluation(plan, None, TrialsKept(tmp_path), lambda _: None).run())
    trial = next(iter(TrialsKept(tmp_path)))
    assert trial.passed is passes, trial.reasons


def test_what_is_not_matched_here(data, monkeypatch, tmp_path):
    for category in ("multi_turn_base", "simple_java", "memory_kv", "live_relevance"):
        with pytest.raises(SuiteFault, match="use `bfcl generate`"):
            load_suite(f"bfcl:{category}")
    with pytest.raises(SuiteFault, match="there is no category none"):
        load_suite("bfcl:none")
    monkeypatch.delenv(bfcl.DATA_VARIABLE)
    with pytest.raises(SuiteFault, match="bfcl-eval is not installed"):
        load_suite("bfcl:simple_python")


@pytest.mark.parametrize(
    "text",
    [
        "version https://git-lfs.github.com/spec/v1",
        '{"id": "simple_python_0"}',
        '{"id": 1, "question": [[]], "function": []}',
        "[1]",
        '{"id": "_", "question": [[]], "function": []}',
    ],
)
def test_data_in_another_form_are_told_in_a_line(data, text):
    (data / "BFCL_v4_simple_python.json").write_text(text)
    with pytest.raises(SuiteFault, match="in another form"):
        load_suite("bfcl:simple_python")


class BaseHandler:
    """As the wheel's: made with these arguments, and `temperature` kept."""

    def __init__(self, model_name, temperature, registry_name, is_fc_model, **kwargs):
        self.temperature = temperature


@pytest.fixture
def bench(install):
    mapping = {}
    install(
        bfcl_eval__model_handler__base_handler={"BaseHandler": BaseHandler},
        bfcl_eval__constants__model_config={"ModelConfig": SimpleNamespace, "MODEL_CONFIG_MAPPING": mapping},
    )
    return mapping


def test_the_handler_goes_the_benchs_way(bench, says):
    """The calls that `inference_multi_turn_FC` makes, in its order."""
    first, last = {"base": 10, "height": 5.0}, {"base": 1, "height": 1}
    model = says([("geometry.area", first)], "It is 25.", [("geometry.area", last)])
    assert bfcl.register() == bfcl.NAME
    assert bench[bfcl.NAME].is_fc_model
    handler = bfcl.make_handler(model)("kodkod", 0.0, bfcl.NAME, True)
    assert isinstance(handler, BaseHandler)
    entry = {"function": [FUNCTION]}
    data = handler._compile_tools(handler._pre_query_processing_FC({}, entry), entry)
    data = handler.add_first_turn_message_FC(data, [{"role": "user", "content": "Area?"}])
    response, seconds = handler._query_FC(data)
    parsed = handler._parse_query_response_FC(response)
    assert parsed["model_responses"] == [{"geometry.area": {"base": 10, "height": 5.0}}]
    assert (parsed["output_token"] > 0, seconds >= 0) == (True, True)
    assert handler.decode_ast(parsed["model_responses"], None, False) == parsed["model_responses"]
    assert handler.decode_execute(parsed["model_responses"], False) == ["geometry.area(base=10, height=5.0)"]
    data = handler._add_assistant_message_FC(data, parsed)
    data = handler._add_execution_results_FC(data, ["25.0"], parsed)
    response, _ = handler._query_FC(data)
    parsed = handler._parse_query_response_FC(response)
    assert parsed["model_responses"] == "It is 25."
    assert handler.decode_execute(parsed["model_responses"], False) == []
    data = handler._add_next_turn_user_message_FC(data, [{"role": "user", "content": "And 1 by 1?"}])
    response, _ = handler._query_FC(data)
    assert handler._parse_query_response_FC(response)["calls"][0].arguments == last
