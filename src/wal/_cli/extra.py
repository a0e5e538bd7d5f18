# SPDX-License-Identifier: Apache-2.0
"""What commands need besides the extra of the command line."""

from __future__ import annotations

from types import ModuleType

from .outcome import ExtraMissingError

__all__ = ["archive_module"]


def archive_module() -> ModuleType:
    """
    Return ``wal.archive``.

    Raises:
        ExtraMissingError: Its extra is not installed.
    """
    try:
        import wal.archive as module
    except ImportError as error:
        raise ExtraMissingError(str(error)) from error
    return module
