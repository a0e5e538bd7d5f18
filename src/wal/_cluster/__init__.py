# SPDX-License-Identifier: Apache-2.0
"""
A storage on an etcd cluster, behind ``wal.cluster``.

From the ground up: ``messages`` are etcd's, ``keys`` and ``sealed`` are how ours stand there. ``client`` asks the
members. ``entities`` are what the small keys say, ``batches`` what the large ones hold. ``ownership`` makes the
transactions that hold only for the owner, ``pages`` reads, ``quota`` asks whether there is space. ``snapshots``,
``recovery``, ``storage`` and ``follower`` stand on them, ``opening`` on all.
"""
