"""What every test may ask for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import wal
from etcd_cluster import ETCD, NO_ETCD, EtcdCluster

settings.register_profile("wal", deadline=None)  # a busy machine is not a wrong library
settings.load_profile("wal")

DATA = Path(__file__).parent / "data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory that does not exist yet, for a log."""
    return tmp_path / "wal"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An empty directory, in memory where there is such a thing: for tests that make 100,000 files, and sync none."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else tmp_path) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One etcd member for all tests of a process; each test names storages of its own."""
    with _started(EtcdCluster(tmp_path_factory.mktemp("etcd"))) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def etcd_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three etcd members, which stay as they are."""
    with _started(EtcdCluster(tmp_path_factory.mktemp("etcd"), 3)) as cluster:
        yield cluster


def _started(cluster: EtcdCluster) -> EtcdCluster:
    if ETCD is None:
        pytest.skip(NO_ETCD)
    return cluster


@pytest.fixture(autouse=True)
def _default_registry_stays() -> Iterator[None]:
    """The process-wide registry is what it was, whatever a test registers."""
    registry = wal._records.DEFAULT_REGISTRY
    before = registry.copy()
    yield
    registry._classes.update(before._classes)


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[..., int]:
    """``effort(quick=…, full=…, deep=…)`` is the number for what ``--effort`` says."""

    def number(*, quick: int, full: int, deep: int) -> int:
        numbers = {"quick": quick, "full": full, "deep": deep}
        return numbers[request.config.getoption("--effort")]

    return number
