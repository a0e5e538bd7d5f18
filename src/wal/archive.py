# SPDX-License-Identifier: Apache-2.0
"""
A log in an object store: sealed segments and snapshots are uploaded, and a directory is brought back to any index.

``Archiver`` uploads what is sealed, beside the log's writer; ``restore`` makes a directory out of an archive; and
``verify`` reads all of one. It takes the extra ``wal[archive]``, which is obstore: S3, Google Cloud Storage, Azure,
local directories and stores in memory.
"""

from __future__ import annotations

try:
    import obstore  # noqa: F401 - to say what to install if it is not there
except ImportError as _error:
    raise ImportError("wal.archive needs the extra wal[archive]: pip install 'wal[archive]'") from _error

from ._archive.archiver import Archiver, ArchiveReport
from ._archive.errors import ArchiveConflictError, ArchiveDamagedError, ArchiveNotFoundError, ArchiveStoreError
from ._archive.objects import ObjectStore
from ._archive.restoring import RestoreReport, restore
from ._archive.verifying import ArchiveVerifyReport, verify

__all__ = [
    "ArchiveConflictError",
    "ArchiveDamagedError",
    "ArchiveNotFoundError",
    "ArchiveReport",
    "ArchiveStoreError",
    "ArchiveVerifyReport",
    "Archiver",
    "ObjectStore",
    "RestoreReport",
    "restore",
    "verify",
]

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
