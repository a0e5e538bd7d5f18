# SPDX-License-Identifier: Apache-2.0
"""
``--records``: the classes that the log's records come back as.

``module:name`` is a registry, or something that returns one when it is called. ``module`` alone is a module that
registers its classes for the whole process, with ``wal.register_record``. Modules are looked for in the current
directory, too.
"""

from __future__ import annotations

import importlib
import os
import sys
from operator import attrgetter
from typing import Any

from wal import RecordRegistry
from wal import etcd as etcd_records
from wal._records import DEFAULT_REGISTRY

from .outcome import UsageError

__all__ = ["registry_of"]


def registry_of(records: str | None, *, etcd: bool = False) -> RecordRegistry:
    """
    Return the registry that the options name; by default the process-wide one.

    Raises:
        UsageError: There is no such thing, or it is no registry.
    """
    if records is None:
        return etcd_records.registry() if etcd else DEFAULT_REGISTRY
    if etcd:
        raise UsageError("--records and --etcd exclude each other")
    found = _named(records)
    if found is None:
        return DEFAULT_REGISTRY
    if callable(found) and not isinstance(found, RecordRegistry):
        try:
            found = found()
        except Exception as error:
            raise UsageError(f"--records {records}: the call raised {_words(error)}") from error
    if not isinstance(found, RecordRegistry):
        raise UsageError(f"--records {records}: that is a {type(found).__name__}, not a wal.RecordRegistry")
    return found


def _named(records: str) -> Any:
    """Import the module and return what is named in it, ``None`` if nothing is."""
    module, colon, name = records.partition(":")
    if not module or (colon and not name):
        raise UsageError(f"--records {records}: write module:name, such as myapp.records:REGISTRY")
    if (here := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
        return attrgetter(name)(imported) if name else None
    except Exception as error:
        raise UsageError(f"--records {records}: {_words(error)}") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
