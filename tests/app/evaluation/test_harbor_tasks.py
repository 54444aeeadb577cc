"""Task directories of Harbor in boxes of ours: done by their own solution, by an agent, and judged by their tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kodkod_app.evaluation.harbor_tasks import HarborTask, RewardFault, harbor_suite, read_reward
from kodkod_app.evaluation.suite import SuiteFault
from kodkod_app.evaluation.suite_files import load_suite

TASK = """\
schema_version = "1.4"
[task]
name = "kodkod/greeting"
[agent]
timeout_sec = 60.0
[verifier]
timeout_sec = 60.0
env = { WANTED = "hello" }
[environment]
cpus = 1
env = { MODE = "test" }
[solution]
env = { WORD = "hello" }
"""
DOCKERFILE = """\
# what it stands on
FROM python:3.12-slim
WORKDIR /app
COPY data/ ./data
COPY seed.txt /app/start.txt
"""
TEST = """\
#!/bin/bash
mkdir -p /logs/verifier
if [ "$(cat /app/greeting.txt)" = "$WANTED" ] && grep -q 1 /app/start.txt && grep -q 2 /app/data/more.txt
then echo 1 > /logs/verifier/reward.txt
else echo 0 > /logs/verifier/reward.txt
fi
"""


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "tasks" / "greeting"
    for name, text in {
        "task.toml": TASK,
        "instruction.md": "Write hello into /app/greeting.txt.\n",
        "environment/Dockerfile": DOCKERFILE,
        "environment/seed.txt": "1\n",
        "environment/data/more.txt": "2\n",
        "solution/solve.sh": "#!/bin/bash\ncd /app && echo $WORD > greeting.txt\n",
        "tests/test.sh": TEST,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def passed(out):
    return [json.loads(line)["passed"] for line in (out / "records.jsonl").read_text().splitlines()]


def test_its_solution_passes_and_doing_nothing_fails(kodkod, record, task, tmp_path):
    box = ["--sandbox", "none", "--env", sys.prefix]
    ended = kodkod("eval", task, "-o", tmp_path / "reference", "--agent", "reference", *box)
    assert (ended.code, passed(tmp_path / "reference")) == (0, [True]), ended.err
    kodkod("eval", task.parent, "-o", tmp_path / "nothing", "--agent", "nothing", *box)
    assert passed(tmp_path / "nothing") == [False]
    write = {"text": "", "calls": [{"name": "write", "arguments": {"path": "greeting.txt", "content": "hello\n"}}]}
    model = record(write, {"text": "Done.", "calls": []})
    assert kodkod("eval", task, "-o", tmp_path / "agent", "-m", model, *box).code == 0
    assert passed(tmp_path / "agent") == [True]


def test_a_link_in_the_way_leads_nowhere(task, tmp_path):
    """An agent that leaves a link where tests are put must not have them written elsewhere."""
    harbor, tree, elsewhere = HarborTask.read(task), tmp_path / "tree", tmp_path / "elsewhere"
    harbor.lay_out(tree)
    assert (tree / "start.txt").read_text() == "1\n"
    assert (tree / "data" / "more.txt").read_text() == "2\n"
    elsewhere.mkdir()
    (tree / ".harbor").symlink_to(elsewhere)
    script = (harbor.add("tests", tree) / "test.sh").read_text()
    assert list(elsewhere.iterdir()) == []
    assert f"{tree}/greeting.txt" in script
    assert "/app/" not in script


def test_a_long_name_of_any_letters_makes_names_of_files(kodkod, task, tmp_path):
    folder = task.parent.rename(tmp_path / ("ü" * 120))
    task = (folder / "greeting").rename(folder / ("g" * 120))
    ended = kodkod(
        "eval", folder, "-o", tmp_path / "out", "--agent", "nothing", "--sandbox", "none", "--env", sys.prefix
    )
    assert passed(tmp_path / "out") == [False], ended.err
    (path,) = (tmp_path / "out" / "transcripts").iterdir()
    assert path.name.startswith("harbor-üü")
    suite = tmp_path / "long.yaml"
    suite.write_text(f"suite: {'ü' * 100}\nkind: functions\ntasks: []\n")
    with pytest.raises(SuiteFault, match="100 bytes"):
        load_suite(str(suite))


@pytest.mark.parametrize(
    ("name", "text", "reward"),
    [
        ("reward.txt", "1\n", 1.0),
        ("reward.txt", "0.25", 0.25),
        ("reward.json", '{"a": 1, "b": 0.5}', 0.5),
        ("reward.json", "1", 1.0),
        ("reward.json", '{"a": true}', 1.0),
        ("reward.txt", "nan", None),
        ("reward.txt", "", None),
        ("reward.txt", "one", None),
        ("reward.json", '{"a": "1"}', None),
        ("reward.json", '{"a": 1e999}', None),
        ("reward.json", "{}", None),
        ("rewards.json", '{"a": 1}', None),
        ("reward.json", "1" + "0" * 400, None),
        ("reward.json", "[" * 100_000, None),
    ],
)
def test_rewards(name, text, reward, tmp_path):
    (tmp_path / name).write_text(text)
    if reward is None:
        with pytest.raises(RewardFault):
            read_reward(tmp_path)
    else:
        assert read_reward(tmp_path) == reward


def test_a_reward_of_any_size_costs_no_memory(tmp_path):
    with (tmp_path / "reward.txt").open("wb") as file:
        file.write(b"1\n")
        file.truncate(1 << 40)
    with pytest.raises(RewardFault, match="holds no number"):
        read_reward(tmp_path)


def test_what_an_agent_put_in_the_place_of_the_tests_goes(task, tmp_path):
    harbor, tree = HarborTask.read(task), tmp_path / "tree"
    harbor.lay_out(tree)
    here = os.open(tree, os.O_RDONLY)
    for name in [".harbor", *["tests"] * 1_200]:
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        assert (harbor.add("tests", tree) / "test.sh").is_file()
    finally:
        subprocess.run(["rm", "-rf", str(tree)], check=True)  # what pytest removes folders with cannot


def test_json_is_read_before_text(tmp_path):
    (tmp_path / "reward.txt").write_text("1")
    (tmp_path / "reward.json").write_text("0")
    assert read_reward(tmp_path) == 0.0


def test_what_is_not_done_here(task, tmp_path):
    assert [one.id for one in load_suite(str(task)).tasks] == ["greeting"]
    (task / "environment" / "Dockerfile").write_text(DOCKERFILE + "RUN apt-get update\n")
    with pytest.raises(SuiteFault, match="has RUN, which only a build does"):
        HarborTask.read(task).lay_out(tmp_path / "tree")
    (task / "environment" / "Dockerfile").write_text("FROM x\nWORKDIR /app\nCOPY ../../secret /app/\n")
    with pytest.raises(SuiteFault, match="is not in"):
        HarborTask.read(task).lay_out(tmp_path / "tree2")
    (task / "environment" / "Dockerfile").write_text("FROM x\nWORKDIR /app\nCOPY seed.txt /etc/\n")
    with pytest.raises(SuiteFault, match="outside of /app"):
        HarborTask.read(task).lay_out(tmp_path / "tree3")
    for number, rest in enumerate(("", '"seed.txt /app/', "--chown=me")):
        (task / "environment" / "Dockerfile").write_text(f"FROM x\nWORKDIR /app\nCOPY {rest}\n")
        with pytest.raises(SuiteFault, match="COPY"):
            HarborTask.read(task).lay_out(tmp_path / f"tree4{number}")
    (task / "environment" / "Dockerfile").write_bytes(b"FROM \xff\n")
    with pytest.raises(SuiteFault, match="cannot be read"):
        HarborTask.read(task)
    (task / "environment" / "Dockerfile").write_text(DOCKERFILE)
    (task / "instruction.md").write_text("\n")
    with pytest.raises(SuiteFault, match=r"instruction\.md is empty"):
        load_suite(str(task))
    (task / "instruction.md").write_text("Do it.\n")
    (task / "task.toml").write_text(TASK + "[[steps]]\nname = 'one'\n")
    with pytest.raises(SuiteFault, match="several steps"):
        HarborTask.read(task)
    (task / "task.toml").write_text("[")
    with pytest.raises(SuiteFault, match="no task directory"):
        HarborTask.read(task)
    with pytest.raises(SuiteFault, match="holds no task directory"):
        harbor_suite(tmp_path)
