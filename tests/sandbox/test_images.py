from __future__ import annotations

import os
from pathlib import Path

import pytest

from kodkod_sandbox.errors import ImageError
from kodkod_sandbox.images import BASE_TAG, RECIPES, VENV, find_recipe
from kodkod_sandbox.package_index import package_index, proxies


def test_the_base_has_a_recipe_and_a_name_that_follows_it() -> None:
    assert (RECIPES / "Dockerfile").is_file()
    assert BASE_TAG.startswith("kodkod-base:")


def test_nothing_said_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("print()")
    assert find_recipe(tmp_path) is None


def test_dockerfile_comes_first_and_its_content_names_the_image(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("attrs\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    first = find_recipe(tmp_path)
    assert first
    assert (first.source, first.folder) == ("Dockerfile", tmp_path)
    assert find_recipe(tmp_path) == first
    (tmp_path / "Dockerfile").write_text("FROM other\n")
    second = find_recipe(tmp_path)
    assert second
    assert second.tag != first.tag


def test_devcontainer_with_comments_names_an_image_or_a_build(tmp_path: Path) -> None:
    folder = tmp_path / ".devcontainer"
    folder.mkdir()
    (folder / "devcontainer.json").write_text('{\n// which\n"image": "debian:12", /* url: "//" */ "x": "http://a", }')
    recipe = find_recipe(tmp_path)
    assert recipe
    assert recipe.files["Dockerfile"] == "FROM debian:12\n"
    (folder / "devcontainer.json").write_text('{"build": {"dockerfile": "Box", "context": ".."}}')
    (folder / "Box").write_text("FROM scratch\n")
    recipe = find_recipe(tmp_path)
    assert recipe
    assert (recipe.folder, recipe.dockerfile) == (tmp_path, ".devcontainer/Box")


@pytest.mark.parametrize("context", ["../..", "/"])
def test_a_build_outside_the_tree_is_refused(tmp_path: Path, context: str) -> None:
    tree = tmp_path / "tree"
    (tree / ".devcontainer").mkdir(parents=True)
    (tree / ".devcontainer" / "devcontainer.json").write_text(f'{{"build": {{"context": "{context}"}}}}')
    (tree / ".devcontainer" / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(ImageError, match="outside the work tree"):
        find_recipe(tree)


def test_python_requirements_from_every_place(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\ndependencies = ["attrs>=1"]\n'
        '[project.optional-dependencies]\ntest = ["hypothesis"]\ndocs = ["sphinx"]\n'
    )
    (tmp_path / "setup.cfg").write_text("[options]\ninstall_requires =\n    click\n")
    (tmp_path / "setup.py").write_text("raise SystemExit('must not run')\nsetup(install_requires=['rich'])\n")
    (tmp_path / "requirements-dev.txt").write_text("ruff\n")
    recipe = find_recipe(tmp_path)
    assert recipe
    assert recipe.files["declared.txt"].split() == ["attrs>=1", "click", "hypothesis", "rich"]
    assert recipe.files["requirements-dev.txt"] == "ruff\n"
    text = recipe.files["Dockerfile"]
    assert f"PATH={VENV}/bin:" in text
    assert "--requirement=declared.txt" in text
    assert "--requirement=requirements-dev.txt" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "["),
        ("pyproject.toml", "project = 1"),
        ("pyproject.toml", 'project.dependencies = "abc"'),
        ("pyproject.toml", "project.optional-dependencies = []"),
        ("pyproject.toml", "project.optional-dependencies.test = 1"),
        ("pyproject.toml", "dependency-groups.test = 1"),
        ("pyproject.toml", "a = " + "[" * 10_000),
        ("setup.cfg", "x"),
        ("setup.py", "def"),
        ("setup.py", "x = " + "+".join(["1"] * 20_000)),
        ("setup.py", "x = " + "-" * 100_000 + "1"),
    ],
    ids=lambda text: text[:40],
)
def test_unreadable_metadata_is_an_image_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ImageError, match=name):
        find_recipe(tmp_path)


@pytest.mark.parametrize("build", [r'"dockerfile": "a\u0000b"', '"context": "loop"'])
def test_a_devcontainer_that_leads_nowhere_is_an_image_error(tmp_path: Path, build: str) -> None:
    (tmp_path / ".devcontainer").mkdir()
    (tmp_path / ".devcontainer" / "loop").symlink_to("loop")
    (tmp_path / ".devcontainer" / "Dockerfile").write_text("FROM x")
    (tmp_path / ".devcontainer" / "devcontainer.json").write_text(f'{{"build": {{{build}}}}}')
    with pytest.raises(ImageError, match="outside the work tree"):
        find_recipe(tmp_path)


def test_a_devcontainer_with_a_blank_image_names_none(tmp_path: Path) -> None:
    (tmp_path / ".devcontainer").mkdir()
    (tmp_path / ".devcontainer" / "devcontainer.json").write_text('{"image": " "}')
    assert find_recipe(tmp_path) is None


def test_references_are_followed_inside_the_tree_and_local_lines_left_out(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("secret\n")
    (tree / "requirements.txt").write_text(
        "-e .\n.[test]\n./local\n-r sub/more.txt\n-c sub/pins.txt\n-r ../outside.txt\n-e git+https://x.invalid/y#egg=y\nsix\n"
    )
    (tree / "sub" / "more.txt").write_text("attrs\n--requirement=../requirements.txt\n")
    (tree / "sub" / "pins.txt").write_text("attrs==1\n")
    recipe = find_recipe(tree)
    assert recipe
    assert recipe.files["requirements.txt"].splitlines()[3:] == ["-e git+https://x.invalid/y#egg=y", "six"]
    assert recipe.files.keys() == {"Dockerfile", "requirements.txt", "sub/more.txt", "sub/pins.txt"}
    assert recipe.files["Dockerfile"].count("--requirement=") == 1


def test_pip_settings_reach_a_build_without_this_machines_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://first.invalid/simple\ntrusted-host = a.invalid\n"
        f"cert = {settings}\nextra-index-url =\n    file:///here\n    https://more.invalid/simple\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "b.invalid")
    index = package_index()
    assert index.arguments["PIP_INDEX_URL"] == "https://first.invalid/simple"
    assert index.arguments["PIP_EXTRA_INDEX_URL"] == "https://more.invalid/simple"
    assert index.arguments["PIP_TRUSTED_HOST"] == "b.invalid"
    assert index.certificates == settings


def test_proxies_are_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://p.invalid:1")
    monkeypatch.setenv("no_proxy", "")
    assert proxies()["HTTPS_PROXY"] == "http://p.invalid:1"
    assert "no_proxy" not in proxies()
