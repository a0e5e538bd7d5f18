# SPDX-License-Identifier: Apache-2.0
"""What the proofs on a cluster need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd_cluster import EtcdCluster

from .work import MEMBERS


@pytest.fixture
def members(etcd_program: str, tmp_path: Path) -> Iterator[EtcdCluster]:
    """A cluster, with nothing on it."""
    with EtcdCluster(tmp_path / "etcd", MEMBERS) as members:
        yield members
