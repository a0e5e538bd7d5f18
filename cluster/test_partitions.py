# SPDX-License-Identifier: Apache-2.0
"""Members that cannot reach each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

IN_ITS_OWN_NETWORK = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def test_a_minority_acknowledges_nothing(
    etcd_program: str, tmp_path: Path, count: Callable[..., None], effort: Callable[..., int]
) -> None:
    """
    The leader is parted from all, and the leader with us from the other two, in turns: what the larger part takes is
    kept, what the smaller part was sent is acknowledged when all are joined again, or never; and nothing twice.
    """
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("it takes the rights of root, and ip and unshare (on Debian: iproute2, util-linux)")
    if subprocess.run([*IN_ITS_OWN_NETWORK, "ip", "link", "add", "probe", "type", "veth"], check=False).returncode:
        pytest.skip("this kernel has no network namespaces, or no veth")
    rounds = effort(quick=1, full=6, deep=100)
    done = subprocess.run(
        [*IN_ITS_OWN_NETWORK, sys.executable, "-m", "cluster.partitions", tmp_path / "etcd", str(rounds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    count(found, times_parted=2 * rounds)
    assert found.pop("acknowledged saves") > 100
    assert set(found.values()) == {0}, found
