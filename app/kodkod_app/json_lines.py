"""Records in a file, one JSON line each: appended whole, found again after `kill -9`, a later one of a key in force."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from kodkod_agent.errors import cause_of

RecordT = TypeVar("RecordT", bound=BaseModel)


class RecordsDamaged(Exception):
    """A line of the records cannot be read."""

    exit_code = 1


class JsonLines(Generic[RecordT]):
    """The file. Appended to by one process at a time; what a killed one left torn is cut off."""

    def __init__(self, path: Path, model: type[RecordT], key: Callable[[RecordT], str]) -> None:
        """Open it, new or old.

        Args:
            path: in a folder that exists.
            model: of one line.
            key: names a record; of several with one name the last counts.

        Raises:
            RecordsDamaged: a line other than a torn last one cannot be read.
        """
        self._path = path
        self._model = model
        self._key = key
        path.touch()
        self._size = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, self._size)
        self._records = {key(record): record for record in self._read()}

    def _read(self) -> Iterator[RecordT]:
        # Not `splitlines`, which also parts at signs that JSON may hold unescaped.
        for number, line in enumerate(self._path.read_bytes().split(b"\n")[:-1], 1):
            try:
                yield self._model.model_validate(json.loads(line))
            except (ValidationError, ValueError) as fault:
                raise RecordsDamaged(
                    f"{self._path}, line {number} cannot be read ({cause_of(fault)}); remove the line, or choose "
                    "another folder"
                ) from fault

    def add(self, record: RecordT) -> None:
        """Write one; it outlives this process when this returns."""
        # Not pydantic's own writer: what models and tools wrote may hold lone surrogates, which it refuses.
        line = json.dumps(record.model_dump(mode="json")).encode("ascii") + b"\n"
        with self._path.open("ab") as file:
            file.truncate(self._size)  # of a line that a full disk cut off
            file.write(line)
        self._size += len(line)
        self._records[self._key(record)] = record

    def get(self, key: str) -> RecordT | None:
        """The record of that name."""
        return self._records.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __iter__(self) -> Iterator[RecordT]:
        return iter([self._records[key] for key in sorted(self._records)])

    def __len__(self) -> int:
        return len(self._records)
