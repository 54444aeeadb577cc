"""Real dialogues, from a small package that is broken for real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from kodkod_app.nano.dialogue import Dialogue, Encoder
from kodkod_app.nano.packages import Package, PackageSpec, Role
from kodkod_app.nano.transcripts import VALIDATION, real_dialogues, specs
from kodkod_app.nano.workshop import Workshop, prepare
from kodkod_engine.chat.template import render
from kodkod_engine.chat.tokenizer import Tokenizer

CODE = '''\
"""Money."""


def fee(amount, rate=2, least=5):
    """What a transfer costs."""
    if amount <= 0:
        return 0
    cost = amount * rate + 1
    if cost < least:
        return least
    return cost


def total(amounts):
    """Of several transfers."""
    found = 0
    for amount in amounts:
        found += fee(amount) + amount
    return found
'''
TESTS = """\
from purse.money import fee, total


def test_nothing():
    assert fee(0) == 0


def test_least():
    assert fee(1) == 5


def test_fee():
    assert fee(10) == 21


def test_total():
    assert total([0, 1, 10]) == 37
    assert total([]) == 0
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("purse")
    files = {"purse/__init__.py": "", "purse/money.py": CODE, "tests/test_money.py": TESTS}
    for path, text in files.items():
        place = folder / "tree" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    spec = PackageSpec(
        name="purse", version="1", sha256="0" * 64, licence="MIT", role=Role.TRAIN, tests=("tests/test_money.py",)
    )
    with prepare(Package(spec, folder, folder / "tree")) as made:
        yield made


@pytest.fixture(scope="module")
def found(workshop: Workshop) -> list[Dialogue]:
    return list(real_dialogues(workshop, seed=1, count=14))


def tools(dialogue: Dialogue) -> list[str]:
    return [turn.tool for turn in dialogue.turns]


def test_every_dialogue_ends_mended(found: list[Dialogue]) -> None:
    assert len(found) >= 8
    for dialogue in found:
        assert tools(dialogue)[-3:] == ["edit", "test", "finish"]
        assert "passed in" in (dialogue.turns[-2].result or "")
        assert "failed" not in (dialogue.turns[-2].result or "")
        told = dialogue.turns[0].result or ""
        assert all(f"FAILED {test}\n" in told for test in dialogue.tests)


def test_wrong_steps_fail_and_are_not_learnt(found: list[Dialogue]) -> None:
    wrong = [dialogue for dialogue in found if "git" in tools(dialogue)]
    assert 0 < len(wrong) < len(found)
    for dialogue in wrong:
        at = tools(dialogue).index("git")
        edit, failed, restored = dialogue.turns[at - 2 : at + 1]
        assert not edit.learnt
        assert "failed in" in (failed.result or "")
        assert restored.result == "restored purse/money.py from HEAD: purse/money.py"


def test_the_learnt_view_shows_the_edited_line(found: list[Dialogue]) -> None:
    counted: Counter[bool] = Counter()
    for dialogue in found:
        *_, view = (turn for turn in dialogue.turns if turn.tool == "view" and turn.learnt)
        edit = dialogue.turns[-3]
        assert edit.arguments["path"] == view.arguments["path"]
        assert f"\n{edit.arguments['line']}|" in (view.result or "")
        counted[view.arguments["start"] == 4] += 1
    assert counted[True]
    assert counted[False]


def test_real_dialogues_are_encoded_by_the_template(found: list[Dialogue], tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer)
    for dialogue in found:
        assert encoder.encode(dialogue).ids == render(tokenizer, dialogue.messages())


def test_packages_are_either_learnt_from_or_kept_aside() -> None:
    learnt, aside = ({spec.name for spec in specs(validation=flag)} for flag in (False, True))
    assert aside == set(VALIDATION)
    assert not learnt & aside
    assert all(spec.role is Role.TRAIN for flag in (False, True) for spec in specs(validation=flag))
