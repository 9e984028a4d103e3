"""Feast without what it does at its import and never for us: 4 s of CPU and 490 MB of every process that opens a store.

It has typeguard rewrite its classes so that they check every argument at run time, where mypy has checked ours before;
and it loads torch, for tensors that nobody here asks for. Both are put off before Feast is first imported.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import typeguard

_FEAST: Final = "feast."
_TORCH: Final = "feast.torch_wrapper"
_checked: Final[Callable[..., Any]] = typeguard.typechecked


def lighten_feast() -> None:
    """Make the first import of Feast a light one; where it was imported before, nothing changes."""
    typeguard.typechecked = _typechecked
    wrapper = ModuleType(_TORCH, "Torch on demand.")
    wrapper.__dict__["get_torch"] = lambda: importlib.import_module("torch")
    sys.modules.setdefault(_TORCH, wrapper)


def _typechecked(target: Any = None, **options: Any) -> Any:
    """Do as `typeguard.typechecked`, but leave what is Feast's as it is."""
    if target is None:
        return lambda later: _typechecked(later, **options)
    if target.__module__.startswith(_FEAST):
        return target
    return _checked(target, **options)
