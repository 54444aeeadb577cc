"""The Berkeley Function-Calling Leaderboard: its questions as a suite of ours, and kodkod as a handler of its own.

`kodkod eval bfcl:simple_python` reads the question and answer files of an installed `bfcl-eval` (or of the folder in
BFCL_DATA) without importing it, and matches by the same rules. For the official scores, which its own checker
gives, `register()` makes the handler known, and `bfcl generate --model kodkod-FC` works with the embedded engine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from kodkod_agent.model_turn import Turn
from kodkod_app import paths
from kodkod_app.adapters.asking import next_turn, sampling_of, shared_model
from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.suite import Suite, SuiteFault
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import ToolCall, ToolMessage, ToolSpec

PREFIX = "bfcl:"
DATA_VARIABLE = "BFCL_DATA"
NAME = "kodkod-FC"
Data = dict[str, Any]
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_NOTHING_FITS = "irrelevance"
_LANGUAGES = ("java", "javascript")
_NO_ANSWERS = ("multi_turn", "memory", "web_search", "format_sensitivity", "relevance")


def load_category(category: str) -> Suite:
    """One category of single turns as a suite.

    Raises:
        SuiteFault: its files are not here, or it cannot be matched call by call.
    """
    if category.endswith(_LANGUAGES) or (category != _NOTHING_FITS and _is_beyond(category)):
        raise SuiteFault(f"{category} is scored by running it: use `bfcl generate` with the handler {NAME}")
    folder = data_folder()
    try:
        return _read_category(folder, category)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as fault:
        cause = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
        raise SuiteFault(f"{folder} has {category} in another form than version 4 of the bench ({cause})") from fault


def _read_category(folder: Path, category: str) -> Suite:
    questions = list(_lines(folder / f"BFCL_v4_{category}.json", category))
    answers: dict[str, Any] = {}
    if _NOTHING_FITS not in category:
        path = folder / "possible_answer" / f"BFCL_v4_{category}.json"
        answers = {entry["id"]: entry["ground_truth"] for entry in _lines(path, category)}
    tasks = [_task(entry, answers.get(entry["id"], [])) for entry in questions]
    return Suite.model_validate({"suite": f"bfcl {category}", "kind": "functions", "tasks": tasks})


def _is_beyond(category: str) -> bool:
    return any(name in category for name in _NO_ANSWERS) and not category.endswith(_NOTHING_FITS)


def data_folder() -> Path:
    """Where the bench's files are.

    Raises:
        SuiteFault: nowhere.
    """
    if named := os.environ.get(DATA_VARIABLE):
        return paths.expanded(named)
    spec = importlib.util.find_spec("bfcl_eval")
    if spec is None or spec.origin is None:
        raise SuiteFault(
            f"bfcl-eval is not installed: install it (in an environment of its own), and name its data folder in "
            f"{DATA_VARIABLE}"
        )
    return Path(spec.origin).parent / "data"


def _lines(path: Path, category: str) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise SuiteFault(f"there is no category {category}: {path} cannot be read ({fault.strerror})") from fault
    yield from (json.loads(line) for line in data.split(b"\n") if line.strip())


def _task(entry: Mapping[str, Any], answers: list[Mapping[str, Any]]) -> dict[str, Any]:
    messages = entry["question"][0]
    required = {name for function in entry["function"] for name in function["parameters"].get("required", ())}
    calls = [_first_of(answer, required) for answer in answers]
    wrong = {"calls": [{"name": "none", "arguments": {}}]}
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", entry["id"].lower()).strip("-"),
        "category": entry["id"].rpartition("_")[0],
        "policy": "\n".join(one["content"] for one in messages if one["role"] == "system"),
        "prompt": "\n".join(one["content"] for one in messages if one["role"] == "user"),
        "world": {"tools": [_tool(function) for function in entry["function"]]},
        "expect": {"functions": answers},
        "reference": [{"calls": calls} if calls else {"text": "No function does this."}],
        "wrong": [wrong],
    }


def _first_of(answer: Mapping[str, Any], required: Collection[str]) -> dict[str, Any]:
    """A call with the first value accepted for each argument; what may be left out is, where no other is named."""
    name, values = next(iter(answer.items()))
    arguments = {}
    for key, accepted in values.items():
        chosen = next((one for one in accepted if one not in ("", None)), "" if key in required else None)
        if chosen is not None:
            arguments[key] = _plain(chosen)
    return {"name": name, "arguments": arguments}


def _plain(value: Any) -> Any:
    """An object among the answers gives the values accepted for each of its keys."""
    if isinstance(value, Mapping):
        found = {key: next((one for one in accepted if one != ""), None) for key, accepted in value.items()}
        return {key: one for key, one in found.items() if one is not None}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = json_schema(function["parameters"])
    return {
        "name": function["name"],
        "description": function.get("description", ""),
        "parameters": schema.get("properties", {}),
        "required": schema.get("required", []),
    }


def json_schema(schema: Any) -> Any:
    """The bench's own type names as those of JSON schema, at any depth."""
    if isinstance(schema, Mapping):
        return {
            key: _TYPES.get(value, value) if key == "type" and isinstance(value, str) else json_schema(value)
            for key, value in schema.items()
        }
    return [json_schema(one) for one in schema] if isinstance(schema, list) else schema


# The handler


def register() -> str:
    """Make the handler known to bfcl-eval; the name it is known by.

    Raises:
        ImportError: bfcl-eval is not installed.
    """
    from bfcl_eval.constants import model_config  # type: ignore[import-not-found]  # an environment of its own has it

    config = model_config.ModelConfig(
        model_name=NAME, display_name="kodkod (FC)", url="", org="kodkod", license="apache-2.0",
        model_handler=make_handler(), input_price=None, output_price=None, is_fc_model=True, underscore_to_dot=False,
    )  # fmt: skip
    model_config.MODEL_CONFIG_MAPPING[NAME] = config
    return NAME


def make_handler(model: Model | None = None) -> type:
    """The handler's class, made when bfcl-eval is there to derive it from."""
    from bfcl_eval.model_handler.base_handler import BaseHandler  # type: ignore[import-not-found]  # as above

    return type("KodkodHandler", (Conversation, BaseHandler), {"kodkod_model": model})


class Conversation:
    """What makes a handler of the bench ours: function calling with a ledger. The names are the bench's."""

    kodkod_model: Model | None
    temperature: float

    def _model(self) -> Model:
        return self.kodkod_model or shared_model()

    def _query_FC(self, inference_data: Data) -> tuple[Turn, float]:  # noqa: N802
        sampling = sampling_of({"temperature": self.temperature})
        turn = next_turn(self._model(), inference_data["ledger"], sampling)
        return turn, turn.usage.prefill_s + turn.usage.decode_s

    def _pre_query_processing_FC(self, inference_data: Data, test_entry: Data) -> Data:  # noqa: N802
        del test_entry
        return inference_data | {"messages": []}

    def _compile_tools(self, inference_data: Data, test_entry: Data) -> Data:
        specs = [specification(function) for function in test_entry["function"]]
        ledger = TokenLedger.open(self._model().tokenizer, specs)
        for said in inference_data["messages"]:  # functions were added: declared anew, and what was asked said again
            ledger.append_user(said)
        return inference_data | {"ledger": ledger}

    def _parse_query_response_FC(self, api_response: Turn) -> Data:  # noqa: N802
        calls = api_response.message.calls
        readable = [{call.name: dict(call.arguments)} for call in calls if call.fault is None]
        return {
            "model_responses": readable if calls else api_response.message.text,
            "calls": calls,
            "input_token": api_response.usage.prompt_tokens,
            "output_token": api_response.usage.generated_tokens,
        }

    def add_first_turn_message_FC(self, inference_data: Data, first_turn_message: list[Data]) -> Data:  # noqa: N802
        """What was asked first."""
        return self._add_next_turn_user_message_FC(inference_data, first_turn_message)

    def _add_next_turn_user_message_FC(self, inference_data: Data, user_message: list[Data]) -> Data:  # noqa: N802
        for message in user_message:
            inference_data["messages"].append(message["content"])
            inference_data["ledger"].append_user(message["content"])
        return inference_data

    def _add_assistant_message_FC(self, inference_data: Data, model_response_data: Data) -> Data:  # noqa: N802
        del model_response_data  # what it said is in the ledger, as it was said
        return inference_data

    def _add_execution_results_FC(  # noqa: N802
        self, inference_data: Data, execution_results: list[str], model_response_data: Data
    ) -> Data:
        results = _results(model_response_data["calls"], execution_results)
        inference_data["ledger"].append_tool_results(results)
        return inference_data

    def decode_ast(self, result: Any, language: Any = None, has_tool_call_tag: bool = False) -> list[Data]:
        """Calls, for the checker; words are no call."""
        del language, has_tool_call_tag
        return result if isinstance(result, list) else []

    def decode_execute(self, result: Any, has_tool_call_tag: bool = False) -> list[str]:
        """Calls as Python text, for the bench to run."""
        calls = self.decode_ast(result, None, has_tool_call_tag)
        return [_as_python(name, arguments) for call in calls for name, arguments in call.items()]


def _as_python(name: str, arguments: Data) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def specification(function: Mapping[str, Any]) -> ToolSpec:
    """A declaration out of the bench's."""
    return ToolSpec(
        name=function["name"],
        description=function.get("description", ""),
        parameters=json_schema(function.get("parameters") or {"type": "object", "properties": {}}),
    )


def _results(calls: tuple[ToolCall, ...], given: list[str]) -> list[ToolMessage]:
    """Results for each call in order; one that could not be read was not run."""
    waiting = iter(given)
    texts = (next(waiting, "") if call.fault is None else f"error: {call.fault}" for call in calls)
    return [ToolMessage(call_id=call.id, text=str(text)) for call, text in zip(calls, texts, strict=True)]
