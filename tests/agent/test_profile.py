"""What a checkpoint folder says of its model."""

import pytest

from kodkod_agent.profile import Profile, read_profile
from kodkod_engine.errors import CheckpointCorrupt
from kodkod_tools import registry


def test_a_folder_that_says_nothing_has_the_default(tmp_path):
    assert read_profile(tmp_path) == Profile()
    assert Profile().specs() == registry.specs()
    assert not Profile().guided


def test_a_folder_that_says_something(tmp_path):
    (tmp_path / "kodkod.json").write_text('{"tools": ["view", "test"], "declare_tools": false, "guided": true}')
    profile = read_profile(tmp_path)
    assert [spec.name for spec in profile.specs()] == ["view", "test"]
    assert (profile.declare_tools, profile.system, profile.guided) == (False, True, True)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ('{"tools": ["sing"]}', "there is no tool sing"),
        ('{"tools": []}', "at least one tool"),
        ('{"guidance": true}', "guidance"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(tmp_path, text, cause):
    (tmp_path / "kodkod.json").write_text(text)
    with pytest.raises(CheckpointCorrupt, match=cause) as raised:
        read_profile(tmp_path)
    assert "\n" not in str(raised.value)
    (tmp_path / "kodkod.json").unlink()
    (tmp_path / "kodkod.json").mkdir()
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        read_profile(tmp_path)
