# SPDX-License-Identifier: Apache-2.0
"""
How this installation was built: whether the loops over records run compiled.

They are written twice: tuned for the interpreter (``_codec``, ``_walk``), and for mypyc (``_codec_compiled``,
``_walk_compiled``). The second ones are extension modules if the installation was built so (``WAL_BUILD_COMPILED=1
pip install .``), and are not used otherwise.
"""

from __future__ import annotations

from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec

__all__ = ["COMPILED"]

_NAMES = ["_crc32c_compiled", "_codec_compiled", "_walk_compiled"]


def _load() -> bool:
    """Load the extension modules. Without the right version of their runtime, ``librt``, they cannot be loaded."""
    specs = [find_spec(f"{__package__}.{name}") for name in _NAMES]
    if not all(spec is not None and isinstance(spec.loader, ExtensionFileLoader) for spec in specs):
        return False
    try:
        for name in _NAMES:
            __import__(f"{__package__}.{name}")
    except (ImportError, ValueError):
        return False
    return True


COMPILED = _load()
