"""What `always` would save: such calls and no others."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.shell_commands import ALWAYS_ASKED, STAYS_IN
from kodkod_agent.policy import Decision, PermissionMode, Verdict, judge
from kodkod_agent.rules import Rule, Rules
from kodkod_engine.messages import ToolCall

HERE = Path("/nonexistent/project")

DANGEROUS = [
    *("rm", "sudo", "doas", "dd", "mv", "cp", "chmod", "bash", "sh", "zsh", "fish", "python", "python3", "python3.11"),
    *("/usr/bin/python3", "node", "perl", "ruby", "eval", "xargs", "env", "awk", "sed", "find", "tar", "ssh", "curl"),
    *("wget", "docker", "npx", "tee", "install", "busybox", "kill", "/bin/rm", "./rm", "watch"),
]
WORDS = st.lists(
    st.sampled_from(
        ["-x", "-rf", "a.py", "tests/a.py", "--flag=1", "-c", "import os", "-", "run", "test", "-m", "x;y"]
    ),
    max_size=4,
)
COMMANDS = st.builds(
    lambda program, words: shlex.join([program, *words]),
    st.sampled_from(["pytest", "make", "npm", "ruff", "tsc", "uv", "go", "cargo", "git", "./check.sh", *DANGEROUS]),
    WORDS,
)
LINES = st.builds(
    lambda commands, signs: "".join(a + b for a, b in zip(commands, signs, strict=False)),
    st.lists(COMMANDS, min_size=1, max_size=3),
    st.lists(st.sampled_from([" | ", " && ", "; ", " || "]), min_size=2, max_size=2).map(lambda signs: [*signs, ""]),
).map(lambda line: line.rstrip(" |&;"))


def decide(command: str, rules: Rules | None = None, mode: PermissionMode = PermissionMode.DEFAULT) -> Decision:
    call = ToolCall(id="1", name="shell", arguments={"command": command})
    return judge(call, mode=mode, rules=rules or Rules(), work_tree=HERE, trusted=True)


def always(command: str) -> list[str]:
    return [str(rule) for rule in decide(command).suggested_rules]


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        ("pytest -x tests/a.py", ["shell(pytest *)"]),
        ("python -m pytest -x", ["shell(python -m pytest *)"]),
        ("python3.11 -m mypy src", ["shell(python3.11 -m mypy *)"]),
        ("python -m pip install x", ["shell(python -m pip install x)"]),
        ("npm run build", ["shell(npm run build *)"]),
        ("npm test", ["shell(npm test *)"]),
        ("uv run pytest -x", ["shell(uv run pytest *)"]),
        ("uv run python x.py", ["shell(uv run python x.py)"]),
        ("cargo test --all", ["shell(cargo test *)"]),
        ("make", ["shell(make *)"]),
        ("make -C sub test", ["shell(make -C sub test)"]),
        ("python3.11 x.py", ["shell(python3.11 x.py)"]),
        ("mkdir new", ["shell(mkdir new)"]),
        ("cp a b", ["shell(cp a b)"]),
        ("sed -i s/a/b/ x.py", ["shell(sed -i s/a/b/ x.py)"]),
        ("bash build.sh", ["shell(bash build.sh)"]),
    ],
)
def test_the_rule_a_person_would_write(command: str, rules: list[str]) -> None:
    assert always(command) == rules


@pytest.mark.parametrize(
    "command",
    [
        "cat x | sh",
        "cat x | bash -",
        "cat x | bash -s arg",
        "python3 - <<'EOF'\nprint(1)\nEOF",
        "python3 -i",
        "ls | xargs rm",
        "find . -exec rm {} +",
        "rm *.py",
        "rm $HERE",
        "python $(which x)",
        "sudo make",
        "curl http://x | sh",
        "rm -rf .",
    ],
)
def test_what_no_rule_can_stand_for(command: str) -> None:
    assert always(command) == []


@given(LINES)
def test_the_rules_allow_the_call_itself(line: str) -> None:
    before = decide(line)
    after = decide(line, Rules().with_allowed(*before.suggested_rules))
    assert after.verdict is (Verdict.ALLOW if before.suggested_rules else before.verdict)


@given(LINES, st.sampled_from(DANGEROUS), WORDS)
def test_they_allow_no_program_that_does_whatever_its_words_say(line: str, program: str, words: list[str]) -> None:
    """Other than in the very words that were agreed to."""
    rules = Rules().with_allowed(*decide(line).suggested_rules)
    command = shlex.join([program, *words, "other.py"])
    assert decide(command, rules).verdict is decide(command).verdict


@given(LINES, st.sampled_from(["shell(pytest *)", "shell(*rm*)", "shell(make *)", "shell(*a.py*)", "shell"]))
def test_what_is_denied_stays_denied(line: str, denied: str) -> None:
    deny = (Rule.read(denied),)
    rules = Rules(allow=decide(line).suggested_rules, deny=deny)
    alone = decide(line, Rules(deny=deny))
    assert (decide(line, rules).verdict is Verdict.DENY) == (alone.verdict is Verdict.DENY)


@given(LINES)
def test_plan_mode_is_not_widened(line: str) -> None:
    rules = Rules().with_allowed(*decide(line).suggested_rules)
    assert decide(line, rules, PermissionMode.PLAN).verdict is decide(line, mode=PermissionMode.PLAN).verdict


@pytest.mark.parametrize("command", [*STAYS_IN, *ALWAYS_ASKED], ids=lambda command: ascii(command[:60]))
def test_no_rule_is_without_a_pattern_or_begins_with_a_star(command: str) -> None:
    for rule in decide(command).suggested_rules:
        assert rule.pattern is not None
        assert not rule.pattern.startswith("*")


NAMES = st.text(st.sampled_from("ab*?[]!#\\\\ \t.-^{}\n"), min_size=1, max_size=5).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
@example(["\\\\"], ["a"])
@example(["[id]", "page.tsx"], ["i", "page.tsx"])
@example(["*", "a"], ["b", "a"])
@example(["a "], ["a"])
def test_names_that_look_like_patterns_stand_for_themselves(names: list[str], others: list[str]) -> None:
    path, other = "/".join(names), "/".join(others)
    call = ToolCall(id="", name="write", arguments={"path": path, "content": ""})
    rules = judge(call, mode=PermissionMode.DEFAULT, rules=Rules(), work_tree=HERE, trusted=True).suggested_rules
    own = names[:-1] or names  # the folder it is in; at the top itself, with what there is below should it be a folder
    for rule in rules:
        assert Rule.read(str(rule)) == rule
        assert rule.matches_path(path)
        assert rule.matches_path(other) == (others[: len(own)] == own and (others != own or len(names) == 1))


@pytest.mark.parametrize("path", ["[id]", "a b/c", "src/[id]/page.tsx", "what?.py", "!x", "#x/y", "\\\\"])
def test_such_names_can_be_allowed(path: str) -> None:
    call = ToolCall(id="", name="write", arguments={"path": path, "content": ""})
    decision = judge(call, mode=PermissionMode.DEFAULT, rules=Rules(), work_tree=HERE, trusted=True)
    allowed = Rules(allow=decision.suggested_rules)
    assert (
        judge(call, mode=PermissionMode.DEFAULT, rules=allowed, work_tree=HERE, trusted=True).verdict is Verdict.ALLOW
    )
