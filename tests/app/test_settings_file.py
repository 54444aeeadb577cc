"""The settings as a list of fields, and the person's file written key by key."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodkod_agent.rules import Rule
from kodkod_app.settings import Layers, Settings, SettingsFault, load_settings, merge_sources, read_layers
from kodkod_app.settings_fields import Source, as_text, read_typed, setting_fields
from kodkod_app.settings_file import save_allowed, save_value
from kodkod_app.tui.themes import wanted_theme

COMMENTED = """\
# mine
model = "/data/longcat"  # the large one

[agent]
# not too long
max_turns = 40
"""


def fields(layers: Layers) -> dict[str, object]:
    return {field.key: field for field in setting_fields(layers, merge_sources(layers, trusted=True))}


def test_every_setting_is_there_with_its_words() -> None:
    found = setting_fields(Layers(), Settings())
    assert len(found) > 50
    assert len({field.key for field in found}) == len(found)
    assert [field.key for field in found if not field.doc] == []
    assert all(field.source is Source.DEFAULT and field.value == field.default for field in found)
    [mode] = [field for field in found if field.key == "permission_mode"]
    assert mode.choices[:2] == ("default", "plan")


def test_where_a_value_comes_from() -> None:
    layers = Layers(
        user={"agent": {"max_turns": 40, "seed": 3}, "model": "a"},
        project={"agent": {"max_turns": 20}},
        environment={"model": "b"},
        said={"sandbox": "landlock"},
    )
    found = fields(layers)
    told = {key: (found[key].value, found[key].source, found[key].saved) for key in  # type: ignore[attr-defined]
            ("agent.max_turns", "agent.seed", "model", "sandbox", "env")}  # fmt: skip
    assert told == {
        "agent.max_turns": ("20", Source.PROJECT, "40"),
        "agent.seed": ("3", Source.USER, "3"),
        "model": ("b", Source.ENVIRONMENT, "a"),
        "sandbox": ("landlock", Source.FLAGS, None),
        "env": ("", Source.DEFAULT, None),
    }


def test_a_key_is_written_and_comments_stay(settings_file: Path) -> None:
    settings_file.write_text(COMMENTED)
    settings_file.chmod(0o600)
    save_value(settings_file, "agent.max_turns", 50)
    save_value(settings_file, "tools.test_command", ["make", "test"])
    text = settings_file.read_text()
    assert text.startswith(COMMENTED.replace("40", "50"))
    assert 'test_command = ["make", "test"]' in text
    assert settings_file.stat().st_mode & 0o777 == 0o600
    settings = load_settings(settings_file.parent, trusted=True, environment={})
    assert (settings.agent.max_turns, settings.tools.test_command) == (50, ("make", "test"))
    save_value(settings_file, "tools.test_command", None)
    save_value(settings_file, "engine.device", None)
    assert settings_file.read_text().strip() == COMMENTED.replace("40", "50").strip()


def test_a_mark_of_utf_8_before_the_text_is_no_part_of_it(settings_file: Path) -> None:
    """Some editors write one."""
    settings_file.write_text('[tui]\ntheme = "ansi"\n', encoding="utf-8-sig")
    assert wanted_theme(settings_file) == "ansi"
    save_value(settings_file, "agent.max_turns", 50)
    settings_file.write_text(settings_file.read_text(), encoding="utf-8-sig")
    settings = load_settings(settings_file.parent, trusted=True, environment={})
    assert (settings.tui.theme, settings.agent.max_turns) == ("ansi", 50)


def test_a_file_is_made_with_its_folder(home: Path) -> None:
    path = home / "config" / "config.toml"
    save_value(path, "sandbox", "landlock")
    assert path.read_text() == 'sandbox = "landlock"\n'


def test_nobody_else_may_read_a_new_file_and_an_old_one_keeps_its_mode(settings_file: Path) -> None:
    save_value(settings_file, "agent.max_turns", 7)
    assert settings_file.stat().st_mode & 0o777 == 0o600
    settings_file.chmod(0o640)
    save_value(settings_file, "agent.max_turns", 8)
    assert settings_file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("agent.max_turns", "many", "agent.max_turns"),
        ("agent.max_turns", 0, "greater than or equal to 1"),
        ("sandbox", "moon", "sandbox"),
        ("nothing.like.it", 1, "no such setting"),
        ("permissions.allow", ["shell("], "is no rule"),
    ],
)
def test_what_cannot_be_is_not_written(settings_file: Path, key: str, value: object, said: str) -> None:
    settings_file.write_text(COMMENTED)
    with pytest.raises(SettingsFault, match=said):
        save_value(settings_file, key, value)
    assert settings_file.read_text() == COMMENTED
    assert [path.name for path in settings_file.parent.iterdir()] == [settings_file.name]


def test_a_broken_file_is_left_alone(settings_file: Path) -> None:
    settings_file.write_text("model = \n")
    with pytest.raises(SettingsFault, match="mend or remove it"):
        save_value(settings_file, "model", "x")
    assert settings_file.read_text() == "model = \n"


def test_a_link_to_the_file_stays_one(settings_file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text(COMMENTED)
    settings_file.symlink_to(real)
    save_value(settings_file, "sandbox", "none")
    assert settings_file.is_symlink()
    assert 'sandbox = "none"' in real.read_text()


def test_the_other_end_of_a_link_may_be_on_another_disk(settings_file: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if Path(folder).stat().st_dev == settings_file.parent.stat().st_dev:
            pytest.skip("there is one disk alone")
        settings_file.symlink_to(Path(folder, "dotfiles.toml"))
        save_value(settings_file, "sandbox", "none")
        assert 'sandbox = "none"' in Path(folder, "dotfiles.toml").read_text()


def test_allowed_rules_are_added_once(settings_file: Path) -> None:
    rules = (Rule.read("shell(pytest *)"), Rule.read("edit(src/**)"))
    save_allowed(settings_file, rules)
    save_allowed(settings_file, rules[:1])
    layers = read_layers(settings_file.parent, trusted=True, environment={})
    assert merge_sources(layers, trusted=True).permissions.allow == rules


@given(st.one_of(st.integers(), st.booleans(), st.lists(st.text("ab\"\\'é", max_size=5), max_size=3)))
def test_what_is_shown_can_be_typed(value: object) -> None:
    assert read_typed(as_text(value)) == value


@given(st.text(max_size=20))
def test_anything_can_be_typed(text: str) -> None:
    read_typed(text)
