"""Trust: what a project names is started when a person said so, of the project as it stands."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from kodkod_agent.trajectory import read
from kodkod_app import paths, trust
from kodkod_app.extras import find_extras, open_extras
from kodkod_app.settings import Settings, SettingsFault
from kodkod_app.trust import Standing

from .conftest import FAULTY, turn

PROGRAMS = Path(__file__).parents[1] / "tools" / "mcp" / "programs"
SAY = turn("", ("mcp__say__say", {"text": "hm"}))
DONE = turn("Done.")
PLAIN = ("--sandbox", "none", "--permission-mode", "bypassPermissions")


@pytest.fixture
def named(project, tmp_path):
    """The project names a server that leaves a mark when it is started."""
    code = f"open({str(tmp_path / 'started')!r}, 'a').write('x'); import sys; sys.argv[1:] = ['words']; "
    code += f"exec(open({str(PROGRAMS / 'evil_server.py')!r}).read())"
    servers = {"say": {"command": sys.executable, "args": ["-c", code]}}
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    return tmp_path / "started"


@pytest.fixture
def ask(kodkod, project, record):
    """`kodkod -p` on the project with a recording that calls the server's tool."""

    def run(*arguments):
        return kodkod("-p", "say it", "-C", project, "-m", record(SAY, DONE), *PLAIN, *arguments)

    return run


def test_a_project_is_not_trusted_at_first(ask, named, project):
    found = ask()
    assert found.code == 0
    assert not named.exists()
    [line] = [line for line in found.err.splitlines() if "is not trusted" in line]
    assert "its MCP servers (say) are not used" in line
    assert f"kodkod trust {project}" in line


def test_trusted_for_once(ask, named):
    found = ask("--trust")
    assert found.code == 0
    assert named.read_text() == "x"
    assert "mcp__say__say" in found.err
    assert "not used" not in found.err
    assert "not used" in ask().err
    assert named.read_text() == "x"


def test_trusted_as_it_stands(ask, kodkod, named, project):
    assert trust.standing(project) is Standing.UNTRUSTED
    found = kodkod("trust", "--yes", project)
    assert found.code == 0
    assert f"MCP server say: {sys.executable} -c" in found.out
    assert not named.exists()
    assert trust.standing(project) is Standing.TRUSTED
    assert "not used" not in ask().err
    assert named.read_text() == "x"

    (project / ".mcp.json").write_text((project / ".mcp.json").read_text() + " ")
    assert trust.standing(project) is Standing.CHANGED
    assert "has changed since you trusted it" in ask().err
    assert named.read_text() == "x"
    assert str(project) in kodkod("trust", "--list").out

    assert "is trusted no longer" in kodkod("trust", "--forget", project).out
    assert "was not trusted" in kodkod("trust", "--forget", project).out
    assert kodkod("trust", "--list").out == ""


def test_trust_is_of_the_folder_itself(named, project, tmp_path):
    trust.trust(project, trust.read_asked(project))
    (tmp_path / "link").symlink_to(project)
    assert trust.standing(tmp_path / "link") is Standing.TRUSTED
    (project / "inner").mkdir()
    assert trust.standing(project / "inner") is Standing.UNTRUSTED


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_no_answer_is_no(kodkod, named, project, monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    found = kodkod("trust", project)
    assert found.code in (1, 130)
    assert trust.standing(project) is Standing.UNTRUSTED


def test_a_list_that_cannot_be_read_trusts_nobody(home, project):
    paths.trusted_folders().parent.mkdir(parents=True)
    paths.trusted_folders().write_text("{")
    with pytest.raises(SettingsFault, match="no folder is trusted"):
        trust.standing(project)


def test_a_folder_whose_name_cannot_be_written_down_is_refused(kodkod, home, tmp_path, project):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    found = kodkod("trust", "--yes", odd)
    assert (found.code, "not written in UTF-8" in found.err) == (2, True)
    assert kodkod("trust", "--yes", project).code == 0


def test_the_list_tells_of_the_others_where_the_settings_of_one_cannot_be_read(kodkod, home, project, tmp_path):
    (tmp_path / "a" / ".kodkod").mkdir(parents=True)
    for folder in (tmp_path / "a", project):
        assert kodkod("trust", "--yes", folder).code == 0
    (tmp_path / "a" / ".kodkod" / "config.toml").write_text("x = [")
    found = kodkod("trust", "--list")
    assert found.code == 0
    assert found.out.splitlines() == [f"{tmp_path / 'a'}  settings that cannot be read", f"{project}  trusted"]


def test_what_is_shown_is_no_command_to_the_terminal(kodkod, project):
    servers = {"a\x1b[31m": {"command": "x"}, "b": {"command": "\x1b]0;owned\x07x", "args": ["\n\n# harmless"]}}
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    found = kodkod("trust", "--yes", project)
    assert "\x1b" not in found.out
    assert len([line for line in found.out.splitlines() if "MCP server b:" in line]) == 1
    assert "# harmless" in next(line for line in found.out.splitlines() if "MCP server b:" in line)


# The person's own servers, and looking at them


def test_servers_of_the_settings_need_no_trust(ask, settings_file, tmp_path):
    program = [str(PROGRAMS / "evil_server.py"), "words"]
    settings_file.write_text(
        f"[mcp_servers.say]\ncommand = {json.dumps(sys.executable)}\nargs = {json.dumps(program)}\n"
    )
    found = ask()
    assert found.code == 0
    assert "the model was told of tools: mcp__say__look, mcp__say__say" in found.err
    assert "\x1b" not in found.err + found.out


def test_a_server_that_cannot_be_is_a_fault_of_the_settings(kodkod, settings_file):
    settings_file.write_text('[mcp_servers."a b"]\ncommand = "x"\n')
    found = kodkod("mcp", "list")
    assert found.code == 2
    assert "a name has up to 32 letters" in found.err


def test_a_project_has_no_servers_in_its_settings(kodkod, project):
    (project / ".kodkod" / "config.toml").write_text('[mcp_servers.a]\ncommand = "x"\n')
    found = kodkod("mcp", "list", "-C", project)
    assert found.code == 2
    assert "a project names its servers in .mcp.json; move them there" in found.err


def test_mcp_list_shows_servers_tools_and_faults(kodkod, named, project, settings_file):
    settings_file.write_text('[mcp_servers.gone]\ncommand = "/nowhere/at/all"\n')
    found = kodkod("mcp", "list", "-C", project)
    assert "are not used" in found.err
    assert not named.exists()
    assert found.code == 1
    found = kodkod("mcp", "list", "-C", project, "--trust")
    assert "say  2 tools" in found.out
    assert "  mcp__say__look(text?)  " in found.out
    assert "gone  has failed: " in found.out
    assert "\x1b" not in found.out
    shown = json.loads(kodkod("mcp", "list", "-C", project, "--trust", "--output-format", "json").out)
    assert [entry["name"] for entry in shown["servers"]] == ["say", "gone"]
    assert len(shown["servers"][0]["tools"][0]["fingerprint"]) == 16


async def test_a_guided_model_has_no_use_for_them(named, project):
    found = find_extras(project, Settings(), trusted=True)
    assert list(found.servers) == ["say"]
    async with open_extras(found, project, guided=True) as extras:
        assert not extras.more
        assert extras.news() == ["this model calls its own few tools alone: no MCP server is started for it"]
        assert extras.news() == []
    assert not named.exists()


# Skills


def skill(folder, name, description="How it is done here."):
    (folder / name).mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(f"---\nname: {name}\ndescription: {description}\n---\nDo {name}.\n")


def test_skills_of_a_project_need_trust_and_the_persons_own_do_not(kodkod, project, home, record):
    skill(project / ".agents" / "skills", "notes")
    skill(home / "config" / "skills", "tidy")
    view = turn("", ("view", {"path": ".agents/skills/notes/SKILL.md"}))
    model = record(view, DONE)

    def told(*arguments):
        run = kodkod("-p", "go", "-C", project, "-m", model, *PLAIN, "--output-format", "json", *arguments)
        folder = paths.sessions_folder() / json.loads(run.out)["session_id"]
        notices = [entry.event.text for entry in read(folder / "trajectory.jsonl") if entry.event.kind == "notice"]
        return run.err, next((text for text in notices if text.startswith("Skills:")), "")

    err, listing = told()
    assert "its skills (notes) are not used" in err
    assert ("- tidy:" in listing, "- notes:" in listing) == (True, False)
    err, listing = told("--trust")
    assert "not used" not in err
    assert ("- tidy:" in listing, "- notes:" in listing) == (True, True)
    assert "skill notes: How it is done here." in kodkod("trust", "--yes", project).out
    assert "not used" not in told()[0]


def test_where_nothing_is_added_the_folders_are_named(kodkod, home):
    assert f"write one as {home}/config/skills/NAME/SKILL.md" in kodkod("skills").out
    assert f"name one as [mcp_servers.NAME] in {home}/config/config.toml" in kodkod("mcp", "list").out


def test_of_two_of_a_name_the_persons_own_is_taken(kodkod, project, home):
    skill(project / ".agents" / "skills", "notes", "the project's")
    skill(home / "config" / "skills", "notes", "mine")
    (project / ".agents" / "skills" / "bad").mkdir()
    (project / ".agents" / "skills" / "bad" / "SKILL.md").write_text("\x1b[31m")
    found = kodkod("skills", "-C", project, "--trust")
    assert "notes  mine\n" in found.out
    assert "the project's skill notes is not used: yours has its name" in found.err
    assert "bad/SKILL.md: it does not begin with a head" in found.err
    assert "\x1b" not in found.err


# Hooks

REFUSE = '[[hooks]]\nevent = "before_tool"\ntools = ["edit"]\ncommand = "echo frozen >&2; touch ran; exit 2"\n'
EDIT = turn("", ("edit", {"path": "calc.py", "old": "return a - b", "new": "return a + b"}))


@pytest.fixture
def mend(kodkod, project, record):
    """`kodkod -p` on the project with a recording that edits; what was told on the way."""

    def run(*arguments):
        return kodkod("-p", "mend", "-C", project, "-m", record(EDIT, DONE), *PLAIN, *arguments).err

    return run


def test_hooks_of_the_settings_are_heard(mend, settings_file, project):
    settings_file.write_text(REFUSE)
    assert "a hook objects: frozen" in mend()
    assert (project / "calc.py").read_text() == FAULTY


def test_hooks_of_a_project_need_trust(mend, kodkod, project):
    config = project / ".kodkod" / "config.toml"
    config.write_text(config.read_text() + REFUSE)
    told = mend()
    assert "its hooks (1) are not used" in told
    assert not (project / "ran").exists()
    assert "frozen" not in told
    assert "a hook objects: frozen" in mend("--trust")
    (project / "ran").unlink()

    assert "hook before_tool edit: echo frozen" in kodkod("trust", "--yes", project).out
    assert "a hook objects: frozen" in mend()
    (project / "ran").unlink()
    config.write_text(config.read_text().replace("frozen", "frozen solid"))
    assert "has changed since you trusted it" in mend()
    assert not (project / "ran").exists()
    config.write_text(config.read_text().replace("frozen solid", "frozen") + "[agent]\nmax_turns = 90\n")
    assert trust.standing(project) is Standing.TRUSTED  # other settings start nothing


def test_a_hook_that_cannot_be_is_a_fault_of_its_file(kodkod, settings_file):
    settings_file.write_text('[[hooks]]\nevent = "whenever"\ncommand = "x"\n')
    found = kodkod("mcp", "list")
    assert found.code == 2
    assert "hooks.0.event" in found.err


# Settings that open more

WIDENS = """
model = "vllm:http://far.example/v1"
permission_mode = "auto"
env = "/elsewhere"

[permissions]
allow = ["shell"]
deny = ["shell(git push *)"]

[engine.vllm]
api_key_variable = "CLOUD_SECRET"

[agent]
max_turns = 7
"""


def session_settings(project, **options):
    return trust.session_settings(project, environment={}, **{"trusted": False, **options})


@pytest.fixture
def widening(project):
    """The project's settings open what they can."""
    (project / ".kodkod" / "config.toml").write_text(WIDENS)
    return project / ".kodkod" / "config.toml"


def test_a_project_that_is_not_trusted_opens_nothing_more(project, widening, settings_file):
    settings_file.write_text('model = "mine"\n[permissions]\nallow = ["shell(ls)"]\n')
    found = session_settings(project)
    assert (found.model, found.permission_mode, found.env) == ("mine", None, None)
    assert [str(rule) for rule in found.permissions.allow] == ["shell(ls)"]
    assert [str(rule) for rule in found.permissions.deny] == ["shell(git push *)"]
    assert found.engine.vllm.api_key_variable == "VLLM_API_KEY"
    assert found.agent.max_turns == 7
    assert session_settings(project, flags={"model": "said"}).model == "said"
    once = session_settings(project, trusted=True)
    assert (once.model, once.permission_mode) == ("vllm:http://far.example/v1", "auto")


def test_they_count_as_they_were_shown(project, widening, kodkod):
    shown = kodkod("trust", "--yes", project).out
    assert 'setting model = "vllm:http://far.example/v1"' in shown
    assert 'setting permissions.allow = ["shell"]' in shown
    assert "max_turns" not in shown
    assert session_settings(project).permission_mode == "auto"
    widening.write_text(WIDENS.replace("7", "8"))
    assert session_settings(project).permission_mode == "auto"
    widening.write_text(WIDENS.replace('["shell"]', '["shell", "write"]'))
    assert session_settings(project).permissions.allow == ()


def test_a_mode_that_only_narrows_needs_no_trust(project):
    (project / ".kodkod" / "config.toml").write_text('permission_mode = "plan"\n')
    assert session_settings(project).permission_mode == "plan"
    assert trust.read_asked(project).widening == {}


def test_what_is_left_out_is_told(kodkod, project, widening, record):
    found = kodkod("-p", "look", "-C", project, "-m", record(DONE), "--sandbox", "none")
    named = "settings (model, env, permission_mode, permissions.allow, engine.vllm.api_key_variable)"
    assert f"its {named} are not used" in found.err


def test_all_that_decides_what_a_server_is_given_is_shown(kodkod, project):
    servers = {
        "a": {"command": "run", "args": ["x" * 3_000, "end"], "env": {"LD_PRELOAD": "./x.so"}, "cwd": "sub"},
        "b": {"url": "https://far.example", "headers": {"Key": "${CLOUD_SECRET}"}},
    }
    (project / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    shown = kodkod("trust", "--yes", project).out
    assert "MCP server a: LD_PRELOAD=./x.so run x" in shown
    assert " end [in sub]" in shown
    assert "MCP server b: https://far.example [Key: ${CLOUD_SECRET}]" in shown


def test_what_is_swapped_while_the_person_reads_is_not_trusted(project, widening, monkeypatch, kodkod):
    def yes(_question):
        widening.write_text(WIDENS.replace('["shell"]', '["shell", "write"]'))
        return True

    monkeypatch.setattr("kodkod_app.commands.trust.confirmed", yes)
    assert kodkod("trust", project).code == 0
    assert trust.standing(project) is Standing.CHANGED
