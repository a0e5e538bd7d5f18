"""What every test may ask for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import wal
from etcd_cluster import EtcdCluster

settings.register_profile("wal", deadline=None)  # a busy machine is not a wrong library
settings.load_profile("wal")

DATA = Path(__file__).parent / "data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory that does not exist yet, for a log."""
    return tmp_path / "wal"


@pytest.fixture(scope="session")
def etcd(etcd_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One etcd member for all tests of a process; each test names storages of its own."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def etcd_of_three(etcd_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """Three etcd members, which stay as they are."""
    with EtcdCluster(tmp_path_factory.mktemp("etcd"), 3) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _garbage_is_collected() -> Iterator[None]:
    """A test that leaves the collector switched off has the ones behind it fill the memory."""
    yield
    was_on = gc.isenabled()
    gc.enable()
    assert was_on


@pytest.fixture(autouse=True)
def _default_registry_stays() -> Iterator[None]:
    """The process-wide registry is what it was, whatever a test registers."""
    registry = wal._records.DEFAULT_REGISTRY
    before = registry.copy()
    yield
    registry._classes.update(before._classes)
