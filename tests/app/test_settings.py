"""Which source wins, what a stranger's project may say, and what a mistake is told."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kodkod_agent.policy import PermissionMode
from kodkod_app.settings import PREFIX, Settings, SettingsFault, load_settings, merge_layers, said_layer
from kodkod_sandbox.docker import MARK
from kodkod_tools.locate.tracing import tracing
from kodkod_tools.paths import Place


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree" / ".kodkod").mkdir(parents=True)
    return tmp_path / "tree"


def says(tree, text):
    (tree / ".kodkod" / "config.toml").write_text(text)


def load(tree, *, trusted=True, environment=None, flags=None):
    return load_settings(tree, trusted=trusted, environment=environment or {}, flags=flags)


def test_what_commands_in_a_box_see_of_kodkod_is_no_setting(tmp_path):
    """kodkod may be run there, and its own tests are."""
    scratch = Place(tmp_path, ())
    assert not [name for name in (MARK, *tracing(scratch, tmp_path).environment) if name.startswith(PREFIX)]


def test_without_any_source_there_are_the_defaults(tree):
    assert load(tree) == Settings()


def test_each_source_is_stronger_than_the_one_before(tree, settings_file):
    settings_file.write_text('model = "user"\nsandbox = "docker"\n[agent]\nmax_turns = 1\nseed = 1\nmax_tokens = 1\n')
    says(tree, 'sandbox = "landlock"\n[agent]\nmax_turns = 2\nseed = 2\n')
    environment = {"KODKOD_AGENT__MAX_TURNS": "3", "KODKOD_PERMISSION_MODE": "plan", "HOME": "x", "KODKOD_HOME": "x"}
    found = load(tree, environment=environment, flags={"model": None, "agent": {"max_turns": 4, "seed": None}})
    assert (found.model, found.sandbox, found.permission_mode) == ("user", "landlock", PermissionMode.PLAN)
    assert (found.agent.max_turns, found.agent.seed, found.agent.max_tokens) == (4, 2, 1)


def test_lists_in_the_environment_are_json(tree):
    found = load(tree, environment={"KODKOD_TOOLS__TEST_COMMAND": '["make", "test"]'})
    assert found.tools.test_command == ("make", "test")


def test_rules_of_all_sources_count_together(tree, settings_file):
    settings_file.write_text('[permissions]\nallow = ["shell(make *)"]\ndeny = ["edit(secret/**)"]\n')
    says(tree, '[permissions]\nallow = ["shell(tox *)"]\nask = ["git"]\n')
    found = load(tree, environment={"KODKOD_PERMISSIONS__DENY": '["shell(rm *)"]'}).permissions
    assert [str(rule) for rule in found.allow] == ["shell(make *)", "shell(tox *)"]
    assert [str(rule) for rule in found.ask] == ["git"]
    assert [str(rule) for rule in found.deny] == ["shell(rm *)", "edit(secret/**)"]


def test_a_project_that_is_not_trusted_may_narrow_alone(tree):
    says(
        tree,
        'model = "theirs"\nsandbox = "none"\npermission_mode = "bypassPermissions"\n'
        '[agent]\nmax_turns = 7\n[tools]\ntest_command = ["evil"]\n'
        '[permissions]\nallow = ["shell"]\nask = ["edit"]\ndeny = ["git"]\n',
    )
    found = load(tree, trusted=False)
    assert found.model_copy(update={"permissions": Settings().permissions}) == Settings()
    assert found.permissions.allow == ()
    assert [str(rule) for rule in (*found.permissions.ask, *found.permissions.deny)] == ["edit", "git"]


@pytest.mark.parametrize(
    "line", ['sandbox = "none"', 'permission_mode = "bypassPermissions"', '[engine]\nkv_folder = "/home"']
)
def test_not_even_a_trusted_project_may_open_the_box(tree, line):
    says(tree, line)
    with pytest.raises(SettingsFault, match=r"a project may not (set|say where)"):
        load(tree)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modle = 1", "modle: there is no such setting"),
        ("model = 1", "model: Input should be a valid string"),
        ("[agent]\nmax_turn = 1", "agent.max_turn: there is no such setting"),
        ("[agent]\nmax_turns = 0", "agent.max_turns: Input should be greater than or equal to 1"),
        ('[tools]\ntest_command = "npm test"', "tools.test_command: Input should be a valid list"),
        ("[engine]\nmax_runing = 1", "engine.max_runing: there is no such setting"),
        ("[engine]\nthreads = 100000", "engine: threads must be from 1 to 1,024, not 100,000"),
        ("[engine]\nblock_size = 0", "engine: block_size must be at least 1, not 0"),
        ('[permissions]\ndeny = ["(("]', "permissions.deny.0: '((' is no rule"),
        ('[permissions]\ndeny = ["Bash(rm *)"]', "permissions: there is no tool 'Bash'; there are shell, view, edit,"),
        ('sandbox = "strong"', "sandbox: Input should be 'auto', 'docker', 'bubblewrap', 'landlock' or 'none'"),
        ("model = ", "cannot be read"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tree, settings_file, text, told):
    settings_file.write_text(text)
    with pytest.raises(SettingsFault) as fault:
        load(tree)
    assert str(fault.value).startswith(str(settings_file))
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)
    assert fault.value.exit_code == 2


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"KODKOD_MODLE": "x"}, "the environment: modle: there is no such setting"),
        ({"KODKOD_AGENT__MAX_TURNS": "many"}, "the environment: agent.max_turns: Input should be a valid integer"),
        ({"KODKOD_TOOLS__TEST_COMMAND": "[a"}, "KODKOD_TOOLS__TEST_COMMAND: not a JSON list"),
        ({"KODKOD_AGENT": "x", "KODKOD_AGENT__SEED": "1"}, "KODKOD_AGENT__SEED: a section cannot have a value"),
    ],
)
def test_a_mistake_in_the_environment_is_told_too(tree, environment, told):
    with pytest.raises(SettingsFault) as fault:
        load(tree, environment=environment)
    assert told in str(fault.value)


def test_a_file_that_is_not_text_is_told(tree, settings_file):
    settings_file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsFault, match="cannot be read"):
        load(tree)


_KEYS = st.text(string.ascii_lowercase, min_size=1, max_size=2)
_LAYERS = st.recursive(
    st.dictionaries(_KEYS, st.integers() | st.none(), max_size=3),
    lambda inner: st.dictionaries(_KEYS, inner | st.integers() | st.none(), max_size=3),
    max_leaves=8,
)


def _flat(layer, path=()):
    for key, value in layer.items():
        if isinstance(value, dict):
            yield from _flat(value, (*path, key))
        else:
            yield (*path, key), value


@given(under=_LAYERS, over=_LAYERS)
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_over_wins_and_nothing_else_of_what_is_under_is_lost(under, over):
    merged = dict(_flat(merge_layers(under, over)))
    above = dict(_flat(over))
    assert above.items() <= merged.items()
    for path, value in _flat(under):
        hidden = any(path[: len(other)] == other or other[: len(path)] == path for other in above)
        assert hidden or merged.get(path, value) == value


@given(layer=_LAYERS)
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_was_not_said_is_left_out(layer):
    assert dict(_flat(said_layer(layer))) == {path: value for path, value in _flat(layer) if value is not None}
