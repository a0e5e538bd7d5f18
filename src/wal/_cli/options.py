# SPDX-License-Identifier: Apache-2.0
"""The arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ArchivePlace", "AsJson", "AsRaw", "Etcd", "LogPath", "Records"]

LogPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="The log's directory; or a storage's, with wal/ in it; or with --etcd a member's, with member/wal/ in it.",
        show_default=False,
    ),
]
ArchivePlace = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="The archive: s3://bucket/path, gs://bucket/path, az://account/container/path, or a directory.",
        show_default=False,
    ),
]
Records = Annotated[
    str | None,
    typer.Option(
        "--records",
        metavar="MODULE:NAME",
        help="The log's record classes: a RecordRegistry, or what returns one when called. MODULE alone is one that"
        " calls wal.register_record. It may be in the current directory.",
        show_default=False,
    ),
]
Etcd = Annotated[
    bool, typer.Option("--etcd", help="PATH is the data directory of an etcd member; its records are etcd's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
AsRaw = Annotated[
    bool, typer.Option("--raw", help="Show the records' bytes as they were saved; no record classes are needed.")
]
