"""Settings, from the weakest word to the strongest: defaults, the person's file, the project's, the environment, flags.

A file is TOML in the shape of `Settings`:

    model = "/data/longcat-flash-lite"
    sandbox = "landlock"

    [permissions]
    deny = ["shell(git push *)"]

    [agent]
    max_turns = 40

In the environment a key is `KODKOD_` and its name in capitals, with two underscores before a section's key:
`KODKOD_MODEL`, `KODKOD_AGENT__MAX_TURNS`. Lists are written as JSON there.

MCP servers are tables as in `.mcp.json`; they are the person's alone to set, a project has that file:

    [mcp_servers.notes]
    command = "notes-server"

Hooks are an array of tables, `[[hooks]]`. A project's are run after yours, once `kodkod trust` was said of the folder.

The files of a project come with the project. What opens more than a stranger may (`widening`) counts once
`kodkod trust` was said of the folder; even then it can neither do without a box nor without permissions. Where a
command has nothing to do with the project it stands in, only what narrows (`ask` and `deny` rules) is heard.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kodkod_agent.config import AgentConfig, CandidatesConfig
from kodkod_agent.hooks import Hook
from kodkod_agent.policy import PermissionMode
from kodkod_agent.rules import Rules, merge_rules
from kodkod_app import paths
from kodkod_app.telemetry import TelemetryConfig
from kodkod_app.tui.config import TuiConfig
from kodkod_engine.config import EngineConfig
from kodkod_sandbox.choose import SandboxKind
from kodkod_tools import registry
from kodkod_tools.config import ToolsConfig
from kodkod_tools.mcp import names
from kodkod_tools.mcp.config import PROJECT_FILE, McpServer, require_name
from kodkod_tools.schema import in_plain_words
from kodkod_tools.small_files import read_small

PREFIX = "KODKOD_"
_MAX_FILE_BYTES = 1024**2
Layer = dict[str, Any]
"""What one source says: plain values, some of the keys of `Settings`."""


class SettingsFault(Exception):
    """An unknown key or a value it cannot have; names the source and the key."""

    exit_code = 2


def _of_tools_there_are(rules: Rules) -> Rules:
    """A rule that names no tool would forbid nothing, and nobody would know."""
    named = {rule.tool for rule in (*rules.allow, *rules.ask, *rules.deny)}
    known = [spec.name for spec in registry.specs()]
    if unknown := sorted(name for name in named if name not in known and not name.startswith(names.PREFIX)):
        raise ValueError(f"there is no tool {unknown[0]!r}; there are {', '.join(known)}, and mcp__SERVER__TOOL")
    return rules


class Settings(BaseModel):
    """Everything that can be set."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str | None = None
    """Folder of a checkpoint; `vllm:URL` or `vllm:FOLDER` for vLLM; `script:FILE` for a recorded model."""
    sandbox: SandboxKind = SandboxKind.AUTO
    """What commands run in; `auto` takes the first that is there and can run the tests."""
    env: Path | None = None
    """Python environment the project's tests run in; None looks for it."""
    permission_mode: PermissionMode | None = None
    """None leaves it to the command."""
    permissions: Annotated[Rules, AfterValidator(_of_tools_there_are)] = Field(default_factory=Rules)
    agent: AgentConfig = Field(default_factory=AgentConfig)
    candidates: CandidatesConfig = Field(default_factory=CandidatesConfig)
    tools: ToolsConfig = Field(default_factory=ToolsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    tui: TuiConfig = Field(default_factory=TuiConfig)
    hooks: tuple[Hook, ...] = ()
    """Commands of yours, run before and after calls and when a run would end."""
    telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig)
    mcp_servers: dict[Annotated[str, AfterValidator(require_name)], McpServer] = Field(default_factory=dict)
    """Programs whose tools the model may be given; they run outside the box, as you do."""


@dataclass(frozen=True, slots=True)
class Layers:
    """What each source says, the weakest first."""

    user: Layer = field(default_factory=dict)
    project: Layer = field(default_factory=dict)
    environment: Layer = field(default_factory=dict)
    said: Layer = field(default_factory=dict)
    """On the command line."""


def load_settings(
    work_tree: Path, *, trusted: bool, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> Settings:
    """All sources put together. See `read_layers`."""
    return merge_sources(read_layers(work_tree, trusted=trusted, environment=environment, flags=flags), trusted=trusted)


def kv_folders(environment: Mapping[str, str]) -> list[Path]:
    """Where prefixes of sessions may be kept: the usual place, and the one that the person names."""
    folders = [paths.kv_folder()]
    with suppress(SettingsFault):  # whoever uses them is told
        named = load_settings(Path.cwd(), trusted=False, environment=environment).engine.kv_folder
        folders += [] if named is None else [paths.expanded(named)]
    return folders


def read_layers(
    work_tree: Path, *, trusted: bool, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> Layers:
    """What each source says.

    Args:
        work_tree: where the project's file is looked for.
        trusted: whether the person means to work on this folder.
        environment: variables of the process.
        flags: what was said on the command line; None stands for "not said".

    Raises:
        SettingsFault: a source cannot be read, or says what cannot be.
    """
    return Layers(
        user=_read(paths.user_settings()),
        project=_read_project(paths.project_settings(work_tree), trusted=trusted),
        environment=checked(_from_environment(environment), "the environment"),
        said=checked(said_layer(flags or {}), "the command line"),
    )


def merge_sources(layers: Layers, *, trusted: bool) -> Settings:
    """The strongest word on everything; rules are collected instead."""
    whole = merge_layers(layers.user, layers.project)
    whole = merge_layers(merge_layers(whole, layers.environment), layers.said)
    rules = merge_rules(_rules(layers.user), _rules(layers.project), trusted)
    strongest = _rules(layers.environment)
    whole["permissions"] = merge_rules(strongest, rules, trusted=True).model_dump(mode="json")
    return Settings.model_validate(whole)


def _read(path: Path) -> Layer:
    try:
        layer = tomllib.loads(read_small(path, _MAX_FILE_BYTES).decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise SettingsFault(f"{path} cannot be read ({_one_line(fault)}); mend or remove it") from fault
    return checked(layer, str(path))


def _read_project(path: Path, *, trusted: bool) -> Layer:
    layer = _read(path)
    if not trusted:
        return {"permissions": layer["permissions"]} if "permissions" in layer else {}
    layer.pop("hooks", None)  # they need trust of their own: see `project_hooks`
    for key, value in (
        ("sandbox", SandboxKind.NONE.value),
        ("permission_mode", PermissionMode.BYPASS_PERMISSIONS.value),
    ):
        if layer.get(key) == value:
            raise SettingsFault(f'{path}: {key}: a project may not set "{value}"; say so on the command line')
    if "kv_folder" in layer.get("engine", {}):
        raise SettingsFault(f"{path}: engine.kv_folder: a project may not say where to write; remove it")
    if "telemetry" in layer:
        raise SettingsFault(f"{path}: telemetry: a project may not set it; remove it")
    if "mcp_servers" in layer:
        raise SettingsFault(f"{path}: mcp_servers: a project names its servers in {PROJECT_FILE}; move them there")
    return layer


def of_project(work_tree: Path) -> Layer:
    """All that a project's file says, for whoever asks what of it needs trust.

    Raises:
        SettingsFault: the file cannot be read, or says what cannot be.
    """
    return _read(paths.project_settings(work_tree))


def hooks_of(layer: Layer) -> tuple[Hook, ...]:
    """The hooks among some settings."""
    return Settings.model_validate(layer).hooks


def widening(layer: Layer) -> Layer:
    """What opens more than a stranger may: where the model is, which learns all that is said; what is done unasked."""
    found: Layer = {key: layer[key] for key in ("model", "env") if key in layer}
    if layer.get("permission_mode", PermissionMode.PLAN) != PermissionMode.PLAN:
        found["permission_mode"] = layer["permission_mode"]
    for section, key in (("permissions", "allow"), ("engine", "vllm")):
        if layer.get(section, {}).get(key):
            found[section] = {key: layer[section][key]}
    return found


def without(layer: Layer, part: Layer) -> Layer:
    """Settings without some of them."""
    kept = {}
    for key, value in layer.items():
        if key not in part:
            kept[key] = value
        elif isinstance(part[key], dict):
            kept[key] = without(value, part[key])
    return kept


def _from_environment(environment: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for name, value in environment.items():
        if not name.startswith(PREFIX) or name == paths.HOME_VARIABLE:
            continue
        *sections, key = name.removeprefix(PREFIX).lower().split("__")
        place = layer
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsFault(f"the environment: {name}: a section cannot have a value of its own; unset one")
        place[key] = _read_value(name, value)
    return layer


def _read_value(name: str, value: str) -> Any:
    if not value.startswith("["):
        return value
    try:
        return json.loads(value)
    except ValueError as fault:
        raise SettingsFault(f"the environment: {name}: not a JSON list ({fault})") from fault


def checked(layer: Layer, source: str) -> Layer:
    """A layer that can stand alone, unchanged.

    Raises:
        SettingsFault: it cannot.
    """
    try:
        Settings.model_validate(layer)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "all of it"
        is_unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
        cause = "there is no such setting" if is_unknown else in_plain_words(first["msg"])
        raise SettingsFault(f"{source}: {key}: {_one_line(cause)}; correct or remove it") from fault
    return layer


def merge_layers(under: Layer, over: Layer) -> Layer:
    """Both, key by key; what is over wins."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge_layers(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def said_layer(layer: Mapping[str, Any]) -> Layer:
    """What was said of it: without None, at any depth, and without sections that are empty then."""
    said: Layer = {}
    for key, value in layer.items():
        kept = said_layer(value) if isinstance(value, Mapping) else value
        if kept is not None and kept != {}:
            said[key] = kept
    return said


def _rules(layer: Layer) -> Rules:
    return Rules.model_validate(layer.get("permissions", {}))


def _one_line(cause: object) -> str:
    return " ".join(str(cause).split())
