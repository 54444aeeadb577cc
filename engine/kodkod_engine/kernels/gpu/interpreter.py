"""Triton's interpreter beside a numpy that converts no array of one value to an integer: bounds of loops are such."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter


def mend() -> None:
    """Let kernels loop up to computed bounds in the interpreter. To be called before a kernel is launched."""
    patch = interpreter._patch_lang_tensor
    if getattr(patch, "is_mended", False):
        return

    def mended(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    mended.is_mended = True  # type: ignore[attr-defined]  # a function may bear a mark
    interpreter._patch_lang_tensor = mended
