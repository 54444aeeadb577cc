"""Rows of a SWE-bench data set, out of a file of this machine.

Classic columns and those of version 5 are understood. What a row says besides is kept, and goes on to the grader.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

_GRADING = ("eval_script", "log_parser", "eval_type")
_IMAGE_NAMES = ("image", "image_name", "docker_image")
_KINDS = "a .jsonl, .json or .parquet file, or a folder with one for the split"
_INSTANCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class DatasetFault(Exception):
    """The data set cannot be read, or has not what was asked for."""

    exit_code = 2


class Row(BaseModel):
    """One issue."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    instance_id: str
    repo: str = ""
    base_commit: str = ""
    problem_statement: str = ""
    version: str = ""
    patch: str = ""
    """The reference solution. The agent never sees it."""
    fail_to_pass: tuple[str, ...] = Field(default=(), validation_alias=AliasChoices("FAIL_TO_PASS", "fail_to_pass"))
    pass_to_pass: tuple[str, ...] = Field(default=(), validation_alias=AliasChoices("PASS_TO_PASS", "pass_to_pass"))
    image: str | None = None
    """Whichever of `image`, `image_name` and `docker_image` names one."""
    eval_script: str = ""
    log_parser: str = ""
    eval_type: str = ""
    sdist: str | None = None
    """NAME==VERSION: the work tree is this release's source archive with `patch` taken back."""

    @model_validator(mode="before")
    @classmethod
    def _find_image(cls, value: Any) -> Any:
        """Null in a column is a table's way to leave it out."""
        if not isinstance(value, Mapping):
            return value
        said = {name: entry for name, entry in value.items() if entry is not None}
        return {**said, "image": next((said[name] for name in _IMAGE_NAMES if said.get(name)), None)}

    @field_validator("instance_id")
    @classmethod
    def _is_a_name(cls, text: str) -> str:
        if not _INSTANCE_ID.fullmatch(text):
            raise ValueError(f"{text!r} cannot name an instance: letters, digits, and . _ + - are allowed")
        return text

    @field_validator("fail_to_pass", "pass_to_pass", mode="before")
    @classmethod
    def _maybe_text(cls, value: Any) -> Any:
        """The hub's data sets hold these lists as text, of JSON or, in some variants, as Python writes a list."""
        return _listed(value) if isinstance(value, str) else value

    @property
    def can_be_graded(self) -> bool:
        """Whether the row says how, as version 5 does."""
        return all(getattr(self, name) for name in _GRADING)

    def for_grader(self) -> dict[str, Any]:
        """As the official package reads it: version 5's names, the lists as JSON text."""
        extra = {key: value for key, value in (self.model_extra or {}).items() if not isinstance(value, bytes)}
        own = self.model_dump(exclude=set(self.model_extra or {}) | {"fail_to_pass", "pass_to_pass"})
        lists = {"FAIL_TO_PASS": json.dumps(self.fail_to_pass), "PASS_TO_PASS": json.dumps(self.pass_to_pass)}
        return {**extra, **own, **lists, "image": self.image or f"kodkod.none/{self.instance_id.lower()}"}


def _listed(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as fault:
        raise ValueError("its text is no list, of JSON or Python") from fault


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are meant."""

    instances: Sequence[str] = ()
    """Ids; empty for all."""
    pattern: str = ""
    """An expression the beginning of an id matches."""
    slice: str = ""
    """START:STOP[:STEP] of what the others leave, as in Python."""

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that are meant, in their order.

        Raises:
            DatasetFault: an id is not there, an expression cannot be read, or nothing is left.
        """
        known = {row.instance_id for row in rows}
        if missing := sorted(set(self.instances) - known):
            raise DatasetFault(f"the data set has no instance {', '.join(missing)}; it has {len(known)} others")
        kept = [row for row in rows if not self.instances or row.instance_id in self.instances]
        try:
            kept = [row for row in kept if re.match(self.pattern, row.instance_id)]
        except re.error as fault:
            raise DatasetFault(f"--filter {self.pattern!r} is no regular expression ({fault}); correct it") from fault
        kept = kept[_slice(self.slice)]
        if not kept:
            raise DatasetFault("no instance is left to work on; widen --slice, --filter or --instance")
        return kept


def _slice(text: str) -> slice:
    parts = text.split(":") if text else ["", ""]
    try:
        numbers = [int(part) if part.strip() else None for part in parts]
    except ValueError:
        numbers = []
    if not 2 <= len(numbers) <= 3 or numbers[2:] == [0]:
        raise DatasetFault(f"--slice {text!r} is none; write it as START:STOP or START:STOP:STEP")
    return slice(*numbers)


def read_rows(path: Path, split: str = "test") -> list[Row]:
    """All rows of a data set.

    Args:
        path: a file, or a folder.
        split: which file of a folder.

    Raises:
        DatasetFault: there is none, it cannot be read, or two rows have one name.
    """
    file = _file(path, split)
    rows = [_row(file, number, entry) for number, entry in enumerate(_entries(file), 1)]
    seen: set[str] = set()
    for row in rows:
        if row.instance_id in seen:
            raise DatasetFault(f"{file} has two rows named {row.instance_id}; remove one")
        seen.add(row.instance_id)
    if not rows:
        raise DatasetFault(f"{file} has no rows")
    return rows


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write JSON lines in ASCII: the official package parts lines at signs that JSON may hold unescaped.

    What JSON has no form for (a table may hold dates) is written as text; grading needs none of it.
    """
    lines = [json.dumps(row, ensure_ascii=True, default=str) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")


def _file(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        found = [
            file
            for ending in ("jsonl", "json", "parquet")
            for pattern in (f"{split}.{ending}", f"{split}-*.{ending}", f"data/{split}-*.{ending}", f"dataset.{ending}")
            for file in sorted(path.glob(pattern))
        ]
        if len(found) == 1:
            return found[0]
        raise DatasetFault(f"{path} has {len(found)} files for the split {split!r}; name the file itself, {_KINDS}")
    raise DatasetFault(f"there is no data set {path}; give {_KINDS}. Nothing is fetched from a hub")


def _entries(file: Path) -> Iterator[Any]:
    readers = {".jsonl": _lines, ".json": _whole, ".parquet": _parquet}
    reader = readers.get(file.suffix)
    if reader is None:
        raise DatasetFault(f"{file} cannot be read as a data set; give {_KINDS}")
    try:
        yield from reader(file)
    except (OSError, ValueError, TypeError, RecursionError) as fault:
        raise DatasetFault(f"{file} cannot be read ({' '.join(str(fault).split())}); give {_KINDS}") from fault


def _lines(file: Path) -> Iterator[Any]:
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as fault:
                raise ValueError(f"line {number}: {fault}") from fault


def _whole(file: Path) -> Iterator[Any]:
    found = json.loads(file.read_bytes())
    if not isinstance(found, dict | list):
        raise TypeError("neither a list nor an object")
    yield from found.values() if isinstance(found, dict) else found


def _parquet(file: Path) -> Iterator[Any]:
    try:
        from pyarrow import parquet  # type: ignore[import-untyped]  # it has no types
    except ImportError as fault:
        raise DatasetFault(
            f"{file} needs pyarrow, which is not installed: pip install 'kodkod[swebench]', or give JSON lines"
        ) from fault
    yield from parquet.read_table(file).to_pylist()


def _row(file: Path, number: int, entry: Any) -> Row:
    try:
        return Row.model_validate(entry)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the row"
        raise DatasetFault(f"{file}, row {number}: {place}: {first['msg']}; correct it") from fault
