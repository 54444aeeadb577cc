"""A kernel on disk is one of all sources here, for what it calls is compiled into it and may come from another file.

numba itself asks for changes in a kernel's own file alone, so an update of another left old code in use.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from numba.core import caching

FOLDER = Path(__file__).parent

_Locator: Any = caching._SourceFileBackedLocatorMixin


@cache
def sources_hash() -> str:
    """Of the names and texts of all files of the folder."""
    texts = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.py")):
        texts.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return texts.hexdigest()


def stamp_by_all_sources() -> None:
    """From now on numba keeps kernels of the folder so; to be called before one is defined, and once."""
    of_own_file = _Locator.get_source_stamp

    def stamp(locator: Any) -> Any:
        own = of_own_file(locator)
        return (own, sources_hash()) if Path(locator._py_file).parent == FOLDER else own

    _Locator.get_source_stamp = stamp
