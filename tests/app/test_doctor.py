"""`kodkod doctor -m`: damaged, half-fetched and converted checkpoints; what it advises can be done."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from engine.oracle import tensors_of
from kodkod_app import machine_facts
from kodkod_app.commands.doctor import command as doctor
from kodkod_app.machine_facts import NO_GIT, Fact, exit_code_of, model_facts, placement_facts, program_facts
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.declare_block import ToolWords, described_tools, tools_pieces
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.messages import ToolSpec
from kodkod_engine.models.checkpoint import INDEX_NAME, SINGLE_NAME
from kodkod_engine.models.convert import convert
from kodkod_engine.models.loading import load_model
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint
from kodkod_engine.placement import machine as machine_module
from kodkod_engine.placement.machine import GIB, Machine
from kodkod_sandbox.choose import Fact as Found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_byte_tokenizer(folder)
    return write_random_checkpoint(folder, TINY, dtype=torch.bfloat16, shard_bytes=500_000)


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(source, tmp_path / "damaged"))


def _shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[1]


SPEC = ToolSpec(name="look", description="Looks.", parameters={})
DESCRIBED = """\
{% for tool in tools %}
### Tool name: {{ tool.function.name }}
Description: {{ tool.function.description }}

InputSchema: {{ tool.function.parameters | tojson }}

{% endfor %}
"""

DAMAGE: dict[str, Callable[[Path], object]] = {
    "5 bytes": lambda folder: _shard(folder).write_bytes(b"12345"),
    "empty": lambda folder: _shard(folder).write_bytes(b""),
    "half": lambda folder: _shard(folder).write_bytes(_shard(folder).read_bytes()[:100_000]),
    "noise": lambda folder: _shard(folder).write_bytes(random.Random(1).randbytes(100_000)),
    "gone": lambda folder: _shard(folder).unlink(),
    "no index": lambda folder: (folder / INDEX_NAME).unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "half a tokenizer": lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0", "added'),
    "no weights": lambda folder: [path.unlink() for path in folder.glob("*.safetensors")],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_loaded_is_not_called_good(folder: Path, damage: str) -> None:
    DAMAGE[damage](folder)
    (fact,) = model_facts(folder)
    assert not fact.is_good
    assert "fetch" in fact.detail or "download" in fact.detail
    assert "\n" not in fact.detail
    assert list(placement_facts(folder)), "where it would go is to be had of config.json"


def test_what_a_checkpoint_holds_is_told(folder: Path) -> None:
    (fact,) = model_facts(folder)
    assert "2 dual layers, a draft block, " in fact.detail
    assert fact.detail.endswith(" of weights, bfloat16")
    tensors = tensors_of(folder)
    for name in [name for name in tensors if ".mlp.experts." in name]:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[name.replace("weight", "weight_scale_inv")] = torch.ones(1, 1)
    for name in [name for name in tensors if name.startswith("model.mtp.")]:
        del tensors[name]
    for file in (*folder.glob("*.safetensors"), folder / INDEX_NAME):
        file.unlink()
    save_file(tensors, folder / SINGLE_NAME)
    (fact,) = model_facts(folder)
    assert "2 dual layers, no draft block, " in fact.detail
    assert fact.detail.endswith(" of weights, fp8 and bfloat16")


def test_in_whose_words_tools_are_declared_is_told(folder: Path) -> None:
    (fact,) = model_facts(folder)
    assert "tools declared in kodkod's words" in fact.detail
    block = "".join(tools_pieces([SPEC], ToolWords("Others.", ("Call them.",))))
    published = block.replace(described_tools([SPEC]), DESCRIBED)
    (folder / "chat_template.jinja").write_text(published, encoding="utf-8")
    (fact,) = model_facts(folder)
    assert "tools declared in its own words" in fact.detail


def test_programs_that_are_missing_are_not_called_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    _, git, ripgrep = program_facts()
    assert (git.is_good, git.exit_code) == (False, NO_GIT)
    assert (ripgrep.is_good, ripgrep.exit_code) == (False, 0), "a run can do without"


def test_a_missing_table_is_told(folder: Path) -> None:
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"emb_split_num": 4', '"emb_split_num": 8'), encoding="utf-8")
    (fact,) = model_facts(folder)
    assert not fact.is_good
    assert "embedders.12.weight" in fact.detail


def _details(facts: list[Fact], name: str) -> list[str]:
    return [fact.detail for fact in facts if fact.name == name]


def test_a_converted_checkpoint_is_planned_in_its_own_precision(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "new", Precisions.of("int4"))
    (fact,) = model_facts(tmp_path / "new")
    assert fact.is_good
    assert "converted to int4" in fact.detail
    facts = list(placement_facts(tmp_path / "new"))
    told = _details(facts, "placement") + _details(facts, "would fit too")
    assert len(told) == 4
    assert all(detail.startswith("int4 on cpu") and "convert" not in detail for detail in told)
    assert _details(facts, "its settings") == ["none: loading chooses it"]
    assert load_model(tmp_path / "new", precisions=Precisions.of("int4"))
    others = _details(facts, "would fit too")
    assert sorted(other.split("; ")[-1] for other in others) == [
        "engine.ngram_tables = mapped",
        "engine.weights = mapped",
        "engine.weights = mapped, engine.ngram_tables = mapped",
    ]


def test_mapped_weights_are_advised_with_the_conversion_they_need(
    lite_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "available_bytes", lambda: 20.0 * GIB)
    facts = list(placement_facts(lite_folder))
    (settings,) = _details(facts, "its settings")
    assert settings.startswith(f"kodkod convert {lite_folder} {lite_folder}-int4 --precision int4; then, with -m ")
    assert "engine.weights = mapped" in settings
    assert settings.endswith("engine.max_cached_tokens = 8192")
    (placement,) = _details(facts, "placement")
    assert "mapped from the disk after kodkod convert" in placement


def test_too_little_memory_is_told(lite_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "available_bytes", lambda: 1.0 * GIB)
    (fact,) = placement_facts(lite_folder)
    assert not fact.is_good
    assert "GB more than the 1.1 GB there are" in fact.detail


def test_names_are_no_markup(source: Path, tmp_path: Path) -> None:
    name = "a [red]b[/red] \\[c] \x1b[31md"
    result = CliRunner().invoke(doctor, ["-m", str(tmp_path / name)], catch_exceptions=False, env={"COLUMNS": "400"})
    assert result.exit_code == 0
    assert "a [red]b[/red] \\[c] \N{REPLACEMENT CHARACTER}[31md/config.json" in result.output


def test_the_machine_is_looked_at_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lines on speed came of measurements of their own, and differed."""
    looks: list[Path] = []

    def look(folder: Path) -> Machine:
        looks.append(folder)
        return Machine(24 * GIB, 40e9, 1e12)

    monkeypatch.setattr(machine_module, "this_machine", look)
    facts = [*model_facts(source), *placement_facts(source)]
    assert len(looks) == 1
    assert "speed" not in {fact.name for fact in facts}


@pytest.mark.parametrize(("named", "code"), [("source", 0), ("nowhere", 4)])
def test_the_exit_code_is_that_of_a_run(kodkod, source: Path, monkeypatch, named: str, code: int) -> None:
    monkeypatch.chdir(source)
    model = {"source": source, "nowhere": source / "nowhere"}[named]
    for arguments in ((), ("--output-format", "json")):
        found = kodkod("doctor", "-m", model, *arguments)
        assert (found.code, found.err) == (code, "")
    told = {fact["name"]: fact["exit_code"] for fact in json.loads(found.out)}
    assert (told["model"], told["git"]) == (code, 0)


@pytest.mark.parametrize(("missing", "code"), [
    (("git",), 1), (("sandbox a",), 0), (("sandbox a", "sandbox b"), 5), (("git", "sandbox a", "sandbox b"), 5),
    (("git", "model"), 4),
])  # fmt: skip
async def test_of_several_the_first_that_a_run_misses(monkeypatch, missing: tuple[str, ...], code: int) -> None:
    async def diagnose(_options):
        return [Found(kind, f"sandbox {kind}" not in missing, "") for kind in ("a", "b")]

    monkeypatch.setattr(machine_facts, "diagnose", diagnose)
    monkeypatch.setattr("shutil.which", lambda name: None if name in missing else f"/bin/{name}")
    monkeypatch.setattr("kodkod_app.bootstrap.bundled_model", lambda: None if "model" in missing else Path("nano"))
    facts = [*machine_facts.program_facts(), *await machine_facts.sandbox_facts(), *model_facts(None)]
    assert exit_code_of(facts) == code
