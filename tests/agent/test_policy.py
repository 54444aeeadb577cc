from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.conftest import close_folder
from agent.shell_commands import ALWAYS_ASKED, HARMLESS, STAYS_IN
from kodkod_agent.policy import Decision, PermissionMode, Verdict, judge
from kodkod_agent.rules import Rule, Rules, merge_rules
from kodkod_engine.messages import ToolCall

MODES = list(PermissionMode)
ASKING = [PermissionMode.DEFAULT, PermissionMode.ACCEPT_EDITS, PermissionMode.AUTO]


@pytest.fixture(scope="module")
def work_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("project").resolve()
    (tree / "src").mkdir()
    (tree / "way_out").symlink_to("/etc")
    (tree / "way_in").symlink_to(".git")
    return tree


@pytest.fixture(scope="module")
def links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose links that lead out lie deeper."""
    tree = tmp_path_factory.mktemp("links").resolve()
    (tree / "src" / "deeper").mkdir(parents=True)
    (tree / "src" / "link").symlink_to("/etc/passwd")
    (tree / "src" / "deeper" / "link").symlink_to("/etc/passwd")
    return tree


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a submodule."""
    tree = tmp_path_factory.mktemp("nested").resolve()
    for folder in (".git", "src", "lib/new"):
        (tree / folder).mkdir(parents=True)
    (tree / "lib" / ".git").write_text("gitdir: ../.git/modules/lib\n")
    (tree / "link").symlink_to("lib")
    return tree


def rules_of(allow: str = "", ask: str = "", deny: str = "") -> Rules:
    lists = {"allow": allow, "ask": ask, "deny": deny}
    return Rules.model_validate({name: [part for part in text.split(" | ") if part] for name, text in lists.items()})


def decide(work_tree: Path, tool: str, mode: str = "default", rules: Rules | None = None, **given: Any) -> Decision:
    options = {name: given.pop(name) for name in ("trusted", "sandboxed") if name in given}
    call = ToolCall(id="1", name=tool, arguments=given)
    return judge(
        call,
        mode=PermissionMode(mode),
        rules=rules or Rules(),
        work_tree=work_tree,
        trusted=options.get("trusted", True),
        sandboxed=options.get("sandboxed", False),
    )


def verdict(work_tree: Path, command: str, mode: str = "default", **options: Any) -> str:
    return decide(work_tree, "shell", mode, command=command, **options).verdict


def shown(command: str) -> str:
    return ascii(command[:60])


class TestCommands:
    @pytest.mark.parametrize("command", HARMLESS, ids=shown)
    def test_what_only_reads_is_allowed_in_every_mode(self, work_tree: Path, command: str) -> None:
        assert {verdict(work_tree, command, mode) for mode in MODES} == {"allow"}

    @pytest.mark.parametrize("command", STAYS_IN, ids=shown)
    def test_what_runs_code_is_asked_and_held_by_a_box(self, work_tree: Path, command: str) -> None:
        assert verdict(work_tree, command) == "ask"
        assert {verdict(work_tree, command, mode, sandboxed=True) for mode in ASKING} == {"allow"}
        assert verdict(work_tree, command, "plan", sandboxed=True) == "deny"
        assert verdict(work_tree, command, "dontAsk") == "deny"
        assert verdict(work_tree, command, "dontAsk", sandboxed=True) == "allow"
        assert verdict(work_tree, command, "bypassPermissions") == "allow"

    @pytest.mark.parametrize("command", ALWAYS_ASKED, ids=shown)
    def test_what_reaches_out_or_is_unsure_is_asked_even_in_a_box(self, work_tree: Path, command: str) -> None:
        assert {verdict(work_tree, command, boxed) for boxed in ("default", "acceptEdits")} == {"ask"}
        assert verdict(work_tree, command, sandboxed=True) == "ask"
        assert verdict(work_tree, command, "plan") == "deny"
        assert verdict(work_tree, command, "dontAsk", sandboxed=True) == "deny"
        assert verdict(work_tree, command, "bypassPermissions") == "allow"

    def test_the_tables_are_large_and_disjoint(self) -> None:
        commands = HARMLESS + STAYS_IN + ALWAYS_ASKED
        assert len(commands) == len(set(commands)) >= 250

    @given(st.sampled_from(HARMLESS), st.sampled_from(STAYS_IN + ALWAYS_ASKED), st.sampled_from([";", "&&", "\n"]))
    def test_the_strictest_part_speaks_for_all(self, work_tree: Path, mild: str, strict: str, joint: str) -> None:
        assert verdict(work_tree, f"{mild}\n{joint.strip() and ':'}{joint}{strict}") == "ask"

    @given(st.text(max_size=60) | st.text(st.sampled_from("ls $(){}[]<>|&;'\"`\\\n#=ax~*-0"), max_size=40))
    def test_any_text_gets_a_verdict_of_one_line(self, work_tree: Path, text: str) -> None:
        decision = decide(work_tree, "shell", command=text)
        assert decision.reason
        assert "\n" not in decision.reason

    @pytest.mark.parametrize("command", ["touch a", "cp a b", "mv a src", "rm a", "echo x > a.txt", "mkdir src/a"])
    def test_accept_edits_accepts_file_commands(self, work_tree: Path, command: str) -> None:
        assert verdict(work_tree, command, "acceptEdits") == "allow"
        assert verdict(work_tree, command, "acceptEdits", trusted=False) == "ask"

    @pytest.mark.parametrize("command", ["cp * a", "rm $x", "rm way_out/a", "touch way_in/a", "cd way_out; touch a"])
    def test_accept_edits_accepts_nothing_unknown_or_beyond(self, work_tree: Path, command: str) -> None:
        assert verdict(work_tree, command, "acceptEdits") == "ask"

    @pytest.mark.parametrize(
        "command",
        ["cp -ft/etc a", "mv -vt../x a", "cp -r src b", "mv src b", "cp -t b a src", "cd src && touch link",
         "cd src; echo x > link", "cd src; cd .; cp a link"],
    )  # fmt: skip
    def test_accept_edits_accepts_no_way_round(self, links: Path, command: str) -> None:
        assert verdict(links, command, "acceptEdits") == "ask"

    @pytest.mark.parametrize(("command", "expected"), [
        ("rm -r lib", "ask"), ("cd lib && touch a.py", "ask"), ("echo x > lib/a.py", "ask"), ("cp src/a.py lib", "ask"),
        ("cd lib/new && ls", "allow"), ("cat lib/a.py", "allow"), ("touch src/a.py", "allow"),
    ])  # fmt: skip
    def test_a_repository_of_its_own_is_not_changed_unasked(self, nested: Path, command: str, expected: str) -> None:
        assert verdict(nested, command, "acceptEdits", sandboxed=True) == expected

    @pytest.mark.parametrize("command", ["rm -rf {}", "rm -rf ../{}", "rm -rf src/.."])
    def test_the_project_itself_is_not_removed(self, links: Path, command: str) -> None:
        named = command.format(links if command.endswith("f {}") else links.name)
        assert verdict(links, named, "acceptEdits", sandboxed=True) == "ask"

    @pytest.mark.parametrize(
        "command",
        ["cd src && cat link", "(cd src; cat a); cat link", "cd src && cd deeper && cat link", "cat src/*",
         "cat */link", "cat src/l[i]nk", "cat s*/deeper/*", "cat /usr/lib/../../etc/passwd"],
    )  # fmt: skip
    def test_links_that_lead_out_are_found_wherever_a_command_stands(self, links: Path, command: str) -> None:
        assert verdict(links, command) == "ask"

    @pytest.mark.parametrize("command", ["cd src && cat a.py", "cat src/*.py", "cat s*/a.py", "cat *.py", "mv a b"])
    def test_links_that_are_not_met_are_no_matter(self, links: Path, command: str) -> None:
        assert verdict(links, command, "acceptEdits") == "allow"

    def test_auto_lets_git_run_and_write_nothing_else(self, work_tree: Path) -> None:
        for command in ("git rebase -x 'touch y' HEAD~1", "git rebase -ix ls a", "git apply --unsafe-paths x.patch"):
            assert verdict(work_tree, command, "auto") == "ask"

    def test_commits_are_free_in_auto_alone(self, work_tree: Path) -> None:
        assert [verdict(work_tree, "git commit -am x", mode) for mode in ASKING] == ["ask", "ask", "allow"]
        assert verdict(work_tree, "git push", "auto") == "ask"

    def test_git_in_an_untrusted_folder_may_run_what_its_settings_name(self, work_tree: Path) -> None:
        assert verdict(work_tree, "git status", trusted=False) == "ask"
        assert verdict(work_tree, "git status", trusted=False, sandboxed=True) == "allow"
        assert verdict(work_tree, "ls", trusted=False) == "allow"

    def test_a_box_has_its_own_tmp(self, work_tree: Path) -> None:
        assert verdict(work_tree, "echo x > /tmp/log") == "ask"
        assert verdict(work_tree, "echo x > /tmp/log && cat /tmp/log", sandboxed=True) == "allow"
        assert verdict(work_tree, "echo x > /tmp/../etc/log", sandboxed=True) == "ask"


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "command", "expected"),
        [
            ("shell(pytest *)", "pytest -q", "allow"),
            ("shell(pytest *)", "pytest", "allow"),
            ("shell(pytest *)", "pytest-x", "ask"),
            ("shell(pytest *)", "timeout 9 pytest -q", "allow"),
            ("shell(pytest *)", "pytest; python x", "ask"),
            ("shell(pytest *)", "pytest $(python x)", "ask"),
            ("shell(pytest *)", "pytest > /etc/x", "ask"),
            ("shell(pytest *)", "pytest && $x", "ask"),
            ("shell(pytest *)", "LC_ALL=C x=1 pytest", "allow"),
            ("shell(pytest *)", "X=1 pytest", "ask"),
            ("shell(pytest *) | shell(X=)", "X=1 pytest", "allow"),
            ("shell(pytest *) | shell(X=)", "env X=1 pytest", "allow"),
            ("shell(git push *)", "GIT_SSH_COMMAND=x git push", "ask"),
            ("shell(git push *)", "GIT_SSH_COMMAND=x bash -c 'git push'", "ask"),
            ("shell(pytest *)", "sudo pytest", "ask"),
            ("shell(pytest *) | shell(sudo *)", "sudo pytest", "allow"),
            ("shell(pytest *)", "cd / && pytest", "ask"),
            ("shell(pytest *)", "'pytest x'", "ask"),
            ("shell(timeout *)", "timeout 9 python x", "ask"),
            ("shell(bash *)", "bash -c 'python x'", "ask"),
            ("shell(git push)", "git push", "allow"),
            ("shell(git push)", "git push --force", "ask"),
            ("shell(npm run *)", "npm run test -- --x", "allow"),
            ("shell(npm run test*)", "npm run test:unit", "allow"),
            ("shell(cat *)", "cat /etc/passwd", "allow"),
            ("shell", "python x", "allow"),
            ("shell", "$x", "ask"),
            ("write(out/**)", "make > out/log", "ask"),
            ("write(out/**) | shell(make *)", "make > out/log", "allow"),
            ("write(out/**) | shell(make *)", "make > src/log", "ask"),
        ],
    )
    def test_allowing(self, work_tree: Path, rule: str, command: str, expected: str) -> None:
        assert verdict(work_tree, command, rules=rules_of(allow=rule)) == expected

    @pytest.mark.parametrize(
        ("rule", "command"),
        [
            ("shell(rm *)", "rm x"),
            ("shell(rm *)", "ls; rm x"),
            ("shell(rm *)", "/bin/rm x"),
            ("shell(rm *)", "ls | xargs rm"),
            ("shell(rm *)", "find . -exec rm {} ;"),
            ("shell(rm *)", "find . -exec rm {} \\;"),
            ("shell(rm *)", "bash -c 'cd x && rm y'"),
            ("shell(rm *)", "echo $(rm x)"),
            ("shell(rm *)", "cat <<E\n$(rm x)\nE"),
            ("shell(rm *)", "r\\m x"),
            ("shell(rm *)", "'rm' x"),
            ("shell(rm *)", "[[ $(rm x) ]]"),
            ("shell(rm *)", "f() { rm x; }"),
            ("shell(rm *)", "echo ${x:-$(rm y)}"),
            ("shell(rm *)", "sudo rm x"),
            ("shell(sudo *)", "sudo ls"),
            ("shell(xargs *)", "ls | xargs echo"),
            ("shell(git push *)", "git -C . -c a=b push origin"),
            ("shell(git push *)", "git --config-env core.pager=X push"),
            ("shell(*secret*)", "cat secret.txt"),
            ("shell(*|sh)", "cat x |sh"),
            ("write(src/**)", "echo x > src/a"),
            ("edit(src/**)", "echo x > ./src/../src/a"),
            ("shell", "ls"),
        ],
    )
    def test_denying_in_every_mode(self, work_tree: Path, rule: str, command: str) -> None:
        rules = rules_of(allow="shell | write | edit", deny=rule)
        decisions = [decide(work_tree, "shell", mode, rules, command=command, sandboxed=True) for mode in MODES]
        assert {decision.verdict for decision in decisions} == {Verdict.DENY}

    def test_deny_over_ask_over_allow(self, work_tree: Path) -> None:
        rules = rules_of(allow="shell", ask="shell(git *)", deny="shell(git push *)")
        verdicts = [verdict(work_tree, command, rules=rules) for command in ("ls", "git log", "git push")]
        assert verdicts == ["allow", "ask", "deny"]

    @pytest.mark.parametrize(
        "command",
        ["git $x origin", "git {push,origin}", "git pus? origin", "/usr/bin/git $x", "git -C src $x", "git -C $x log",
         "$(echo git) push", "ls | xargs git"],
    )  # fmt: skip
    def test_what_may_turn_out_to_be_denied_is_asked(self, work_tree: Path, command: str) -> None:
        rules = rules_of(allow="shell(git *) | shell(ls)", deny="shell(git push *)")
        for mode in ("default", "bypassPermissions"):
            assert verdict(work_tree, command, mode, rules=rules, sandboxed=True) == "ask"
        assert verdict(work_tree, command, "dontAsk", rules=rules, sandboxed=True) == "deny"

    @pytest.mark.parametrize("command", ["git log $x", "git commit -m $x", "pytest $x", "git push-x $x"])
    def test_what_cannot_be_it_is_not(self, work_tree: Path, command: str) -> None:
        rules = rules_of(allow="shell(git *)", deny="shell(git push -f *)")
        assert verdict(work_tree, command, rules=rules, sandboxed=True) == "allow"

    def test_bypass_still_asks_what_a_rule_asks_and_what_could_be_it(self, work_tree: Path) -> None:
        rules = rules_of(ask="shell(git push)")
        commands = ("git push", "$x", "python x")
        verdicts = [verdict(work_tree, command, "bypassPermissions", rules=rules) for command in commands]
        assert verdicts == ["ask", "ask", "allow"]

    def test_plan_is_not_widened_by_rules(self, work_tree: Path) -> None:
        assert verdict(work_tree, "python x", "plan", rules=rules_of(allow="shell")) == "deny"

    @pytest.mark.parametrize(
        ("command", "suggested"),
        [
            ("pytest -q", ["shell(pytest *)"]),
            ("git commit -m x", ["shell(git commit *)"]),
            ("npm run test", ["shell(npm run test *)"]),
            ("python x.py", ["shell(python x.py)"]),
            ("rm x", ["shell(rm x)"]),
            ("pytest && make x", ["shell(pytest *)", "shell(make x *)"]),
            ("ls && pytest", ["shell(pytest *)"]),
            ("make > out/log", ["write(out/**)", "shell(make *)"]),
            ("pytest; $x", []),
            ("git push", []),
            ("sudo ls", []),
            ("X=1 pytest", ["shell(X=)", "shell(pytest *)"]),
            ("PATH=. pytest", []),
            ("'*' x", []),
            ("'a b' x", ["shell('a b' x)"]),
            ("python " + "x" * 300, []),
        ],
    )
    def test_what_always_would_save(self, work_tree: Path, command: str, suggested: list[str]) -> None:
        decision = decide(work_tree, "shell", command=command)
        assert decision.verdict is Verdict.ASK
        assert [str(rule) for rule in decision.suggested_rules] == suggested

    @pytest.mark.parametrize("command", STAYS_IN, ids=shown)
    def test_what_always_saves_allows_the_same_call(self, work_tree: Path, command: str) -> None:
        decision = decide(work_tree, "shell", command=command)
        rules = Rules().with_allowed(*decision.suggested_rules)
        again = decide(work_tree, "shell", rules=rules, command=command)
        assert again.verdict is (Verdict.ALLOW if decision.suggested_rules else Verdict.ASK)

    def test_an_untrusted_project_narrows_and_never_widens(self) -> None:
        user, project = rules_of("shell(ls)", "", "shell(rm *)"), rules_of("shell", "shell(git *)", "edit")
        merged = merge_rules(user, project, trusted=False)
        assert merged == rules_of("shell(ls)", "shell(git *)", "shell(rm *) | edit")
        assert merge_rules(user, project, trusted=True).allow == user.allow + project.allow

    @pytest.mark.parametrize("text", ["", "shell(", "shell()", "(x)", "a b", "1x"])
    def test_what_is_no_rule_is_refused_in_one_line(self, text: str) -> None:
        with pytest.raises(ValidationError, match=r"is no rule; write tool or tool\(pattern\)"):
            Rule.read(text)

    @pytest.mark.parametrize("text", ["edit(!)", "edit(#x)", "edit(\\)", "edit([z-a])", "edit(!src/**)"])
    def test_a_pattern_that_could_match_nothing_is_refused(self, text: str) -> None:
        with pytest.raises(ValidationError, match="is no pattern for paths"):
            Rule.read(text)

    @pytest.mark.timeout(20)
    def test_no_pattern_takes_long(self) -> None:
        rule = Rule.read(f"shell({'*a' * 30}*b)")
        assert not rule.matches_command("a" * 20_000)
        assert rule.matches_command("a" * 20_000 + "b")

    @given(st.text("ab *", max_size=8), st.text("ab ", max_size=10))
    def test_a_command_pattern_is_a_glob(self, pattern: str, command: str) -> None:
        if not pattern:
            return
        text = ".*".join(map(re.escape, pattern.removesuffix(" *").split("*")))
        expected = re.fullmatch(f"{text}( .*)?" if pattern.endswith(" *") else text, command)
        assert Rule(tool="shell", pattern=pattern).matches_command(command) is (expected is not None)

    @given(st.from_regex(r"shell\([^()]{1,20}\)|[a-z]{1,8}(\([a-z0-9_.*-][a-z0-9_./*-]{0,19}\))?", fullmatch=True))
    def test_a_rule_is_its_text(self, text: str) -> None:
        rule = Rule.read(text)
        assert str(rule) == text
        assert Rules.model_validate_json(Rules(deny=(rule,)).model_dump_json()).deny == (rule,)


class TestTools:
    @pytest.mark.parametrize("mode", MODES)
    def test_looking_is_always_allowed(self, work_tree: Path, mode: str) -> None:
        assert decide(work_tree, "view", mode, path="a.py", trusted=False).verdict is Verdict.ALLOW
        assert decide(work_tree, "search", mode, pattern="x").verdict is Verdict.ALLOW
        assert decide(work_tree, "git", mode, action="diff", trusted=False).verdict is Verdict.ALLOW
        assert decide(work_tree, "finish", mode, summary="done").verdict is Verdict.ALLOW
        assert decide(work_tree, "shell", mode, job="1").verdict is Verdict.ALLOW

    @pytest.mark.parametrize("sandboxed", [False, True])
    def test_edits_follow_the_mode_in_a_box_too(self, work_tree: Path, sandboxed: bool) -> None:
        def edit(mode: str) -> str:
            return decide(work_tree, "edit", mode, path="src/a.py", old="a", new="b", sandboxed=sandboxed).verdict

        assert [edit(mode) for mode in MODES] == ["ask", "deny", "allow", "allow", "deny", "allow"]

    @pytest.mark.parametrize("path", [".git/config", "way_in/config", "way_out/x", "../x", ".kodkod/config.toml"])
    def test_edits_that_reach_further_are_asked(self, work_tree: Path, path: str) -> None:
        decision = decide(work_tree, "write", "acceptEdits", path=path, content="x")
        assert decision.verdict is Verdict.ASK
        assert decision.suggested_rules == ()

    def test_what_lies_in_a_closed_folder_is_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "data").mkdir()
        close_folder(tmp_path / "data", monkeypatch)
        for path in ("data", "data/a.py", "data/sub/a.py"):
            decision = decide(tmp_path, "edit", "acceptEdits", path=path, old="a", new="b")
            assert (decision.verdict, "a closed folder" in decision.reason) == (Verdict.ASK, True)
            assert decide(tmp_path, "shell", "acceptEdits", command=f"rm {path}").verdict is Verdict.ASK
            assert decide(tmp_path, "shell", command=f"cp -r {path} x", sandboxed=True).verdict is Verdict.ASK
            assert decide(tmp_path, "view", path=path).verdict is Verdict.ALLOW

    @pytest.mark.parametrize("path", ["a\0b", "n" * 300, "src/" + "n" * 300 + "/a.py", "n/" * 3_000])
    def test_what_can_be_no_path_is_judged_too(self, work_tree: Path, path: str) -> None:
        """The tool says what is wrong with it."""
        assert decide(work_tree, "view", path=path).verdict is Verdict.ALLOW
        assert decide(work_tree, "write", path=path, content="x").verdict is Verdict.ASK
        assert decide(work_tree, "write", "bypassPermissions", path=path, content="x").verdict is Verdict.ALLOW
        decide(work_tree, "shell", command=f"cd {path} && rm {path} > {path}; cp -r {path} x")

    def test_a_link_to_a_name_that_is_no_text_is_asked(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(os.fsdecode(b"caf\xe9"))
        assert decide(tmp_path, "write", path="link", content="x").verdict is Verdict.ASK

    def test_what_no_snapshot_holds_is_asked(self, nested: Path) -> None:
        """A change in a submodule, or in a clone inside the project, is in no snapshot and in no diff of a run."""
        for path in ("lib/a.py", "lib/new/a.py", "src/../link/a.py"):
            decision = decide(nested, "edit", "acceptEdits", path=path, old="a", new="b")
            assert decision.verdict is Verdict.ASK
            assert "lies in a repository of its own or a closed folder, which no snapshot holds" in decision.reason
        allowed = decide(nested, "edit", rules=rules_of(allow="edit(lib/**)"), path="lib/a.py", old="a", new="b")
        assert allowed.verdict is Verdict.ALLOW
        assert decide(nested, "write", "acceptEdits", path="src/a.py", content="").verdict is Verdict.ALLOW
        assert decide(nested, "view", path="lib/a.py").verdict is Verdict.ALLOW

    @pytest.mark.parametrize(
        ("rules", "path", "expected"),
        [
            (rules_of(allow="edit(src/**)"), "src/a/b.py", "allow"),
            (rules_of(allow="edit(src/**)"), "src/../x.py", "ask"),
            (rules_of(allow="edit(*.py)"), "deep/x.py", "allow"),
            (rules_of(allow="edit", deny="edit(*.lock)"), "a/b.lock", "deny"),
            (rules_of(allow="edit(/a.py)"), "src/a.py", "ask"),
            (rules_of(allow="write"), "a.py", "ask"),
        ],
    )
    def test_path_rules(self, work_tree: Path, rules: Rules, path: str, expected: str) -> None:
        assert decide(work_tree, "edit", rules=rules, path=path, old="a", new="b").verdict == expected

    def test_what_always_would_save_for_a_path(self, work_tree: Path) -> None:
        def suggested(tool: str, **given: Any) -> list[str]:
            return [str(rule) for rule in decide(work_tree, tool, **given).suggested_rules]

        assert suggested("edit", path="src/a.py", old="a", new="b") == ["edit(src/**)"]
        assert suggested("write", path="a.py", content="b") == ["write(/a.py)"]
        assert suggested("git", action="commit", message="x") == ["git(commit)"]
        assert suggested("test") == ["test"]

    def test_tests_run_in_a_box_alone(self, work_tree: Path) -> None:
        assert decide(work_tree, "test").verdict is Verdict.ASK
        assert decide(work_tree, "test", sandboxed=True).verdict is Verdict.ALLOW

    @pytest.mark.parametrize("mode", MODES)
    def test_a_call_that_cannot_be_read_goes_on_to_its_error(self, work_tree: Path, mode: str) -> None:
        assert decide(work_tree, "shell", mode, comand="ls").verdict is Verdict.ALLOW
        assert decide(work_tree, "unheard_of", mode).reason.startswith("nothing is run: there is no tool")
