"""Models that say what was written down, for agents of other people's benches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.agents import scripted_model
from kodkod_app.recorded_model import RecordedTurn


@pytest.fixture
def says() -> Iterator[Callable[..., Model]]:
    """Makes a model that says these turns: texts, or lists of (name, arguments)."""
    made: list[Model] = []

    def make(*turns: Any) -> Model:
        recorded = [
            RecordedTurn(text=turn)
            if isinstance(turn, str)
            else RecordedTurn.model_validate({"calls": [{"name": name, "arguments": given} for name, given in turn]})
            for turn in turns
        ]
        made.append(scripted_model(recorded, "scripted"))
        return made[-1]

    yield make
    for model in made:
        model.engine.close()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts modules in place of a bench that is not installed: dotted name to what is in it."""

    def put(**modules: dict[str, Any]) -> None:
        for name, content in modules.items():
            dotted = name.replace("__", ".")
            parts = dotted.split(".")
            for end in range(1, len(parts) + 1):
                known = ".".join(parts[:end])
                if known not in sys.modules:
                    monkeypatch.setitem(sys.modules, known, ModuleType(known))
            module = sys.modules[dotted]
            for key, value in content.items():
                monkeypatch.setattr(module, key, value, raising=False)
            if len(parts) > 1:
                monkeypatch.setattr(sys.modules[".".join(parts[:-1])], parts[-1], module, raising=False)

    return put
