# SPDX-License-Identifier: Apache-2.0
"""
The archive: sealed segments and snapshots of a log, kept in an object store.

::

    segments/<segment's name>       the bytes of a sealed segment, up to the end of its last save
    snapshots/<snapshot's name>     a snapshot file as it is
    manifest/<number>.json          what the archive holds, and whose it is

Objects are created and never replaced. The manifest with the greatest number counts. It names every object that belongs
to the archive, with its digest; an object is there before a manifest names it. The next manifest can be created by one
archiver alone, since a store creates an object once: that is the fence. Whoever takes over creates the next manifest
with a greater epoch, and the archiver before fails when it comes to create its own.
"""

from __future__ import annotations
