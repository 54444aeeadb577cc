"""Records that outlive what ends the one who writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from kodkod_app.json_lines import JsonLines
from kodkod_app.output_folder import claim_output


class Told(BaseModel):
    name: str
    text: str = ""


def records(path: Path) -> JsonLines[Told]:
    return JsonLines(path, Told, lambda told: told.name)


def test_a_line_that_a_full_disk_cut_off_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    kept = records(tmp_path / "records.jsonl")
    kept.add(Told(name="a"))
    with (tmp_path / "records.jsonl").open("ab") as file:
        file.write(b'{"name":"b","te')
    kept.add(Told(name="c"))
    assert [told.name for told in records(tmp_path / "records.jsonl")] == ["a", "c"]


def test_half_of_a_character_is_kept(tmp_path: Path) -> None:
    records(tmp_path / "records.jsonl").add(Told(name="a", text="caf\udce9 \N{SNOWMAN}"))
    assert [told.text for told in records(tmp_path / "records.jsonl")] == ["caf\udce9 \N{SNOWMAN}"]


def test_what_a_folder_is_kept_for_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_output(tmp_path, {"seed": 1}, ["seed"], "trials")
    write = Path.write_text

    def killed(path: Path, text: str, **options: str) -> int:
        write(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            claim_output(tmp_path, {"seed": 1}, ["seed"], "trials")
    claim_output(tmp_path, {"seed": 1}, ["seed"], "trials")
