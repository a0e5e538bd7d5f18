"""Who is let in: TLS, certificates, users and passwords, against members that ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wal
from etcd_cluster import EtcdCluster, Tls, needs_etcd
from wal import CommitState, Entry, SnapshotData

pytest.importorskip("grpc", reason="no grpcio: pip install wal[etcd]")
import wal.cluster

trustme = pytest.importorskip("trustme", reason="no trustme: pip install trustme")

pytestmark = needs_etcd


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """An authority and a certificate of it for this machine, which serves members and those who ask them."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    files = Tls(directory / "ca.pem", directory / "certificate.pem", directory / "key.pem")
    authority.cert_pem.write_to_path(files.ca)
    certificate.private_key_pem.write_to_path(files.key)
    with files.certificate.open("wb") as file:
        for pem in certificate.cert_chain_pems:
            file.write(pem.bytes())
    return files


def live(endpoints: list[str], **options: Any) -> None:
    """Open, save, take a snapshot, release, follow."""
    with wal.cluster.open_storage(endpoints, "ledger", **options)[0] as storage:
        first = storage.last_index + 1
        storage.save(CommitState(first), [Entry(first)])
        storage.save_snap(SnapshotData(first, b"state"))
        storage.release(SnapshotData(first))
        with wal.cluster.follow(endpoints, "ledger", **options) as records:
            storage.save_entry([Entry(first + 1)])
            assert next(records).value == Entry(first + 1)


class TestTls:
    def test_a_member_that_is_known(self, tmp_path: Path, tls: Tls) -> None:
        """With the certificate of who signs, by https:// or by an address alone; without it nobody is trusted."""
        with EtcdCluster(tmp_path / "etcd", tls=tls) as cluster:
            live(cluster.endpoints, ca_file=tls.ca)
            live([endpoint.removeprefix("https://") for endpoint in cluster.endpoints], ca_file=tls.ca)

            with pytest.raises(wal.ClusterUnavailableError):
                live(cluster.endpoints, timeout_s=1.0)
            with pytest.raises(wal.ClusterUnavailableError):
                live([cluster.endpoints[0].replace("https", "http")], timeout_s=1.0)

    def test_a_member_that_asks_for_a_certificate(self, tmp_path: Path, tls: Tls) -> None:
        """With one it lets us in, and not without."""
        with EtcdCluster(tmp_path / "etcd", tls=tls, client_certificates=True) as cluster:
            live(cluster.endpoints, ca_file=tls.ca, cert_file=tls.certificate, key_file=tls.key)

            with pytest.raises(wal.ClusterUnavailableError):
                live(cluster.endpoints, ca_file=tls.ca, timeout_s=1.0)


class TestUsers:
    @pytest.fixture
    def guarded(self, tmp_path: Path) -> Iterator[EtcdCluster]:
        """A member with users: root, and one that may touch the ledger."""
        with EtcdCluster(tmp_path / "etcd", options=["--auth-token=simple"]) as cluster:

            def ask(what: str, **body: Any) -> None:
                cluster.post(0, f"/v3/auth/{what}", body)

            permission = {"permType": "READWRITE", "key": "bGVkZ2VyLw==", "range_end": "bGVkZ2VyMA=="}  # ledger/
            ask("user/add", name="root", password="secret")
            ask("user/add", name="clerk", password="1234")
            ask("role/add", name="root")
            ask("role/add", name="clerks")
            ask("role/grant", name="clerks", perm=permission)
            ask("user/grant", user="root", role="root")
            ask("user/grant", user="clerk", role="clerks")
            ask("enable")
            yield cluster

    def test_a_user_with_a_password(self, guarded: EtcdCluster) -> None:
        """Whoever may touch the storage's keys may do everything with it."""
        live(guarded.endpoints, user="clerk", password="1234")
        live(guarded.endpoints, user="root", password="secret")

    @pytest.mark.parametrize(
        ("name", "options", "words"),
        [
            pytest.param("ledger", {}, "user name is empty|permission denied", id="nobody"),
            pytest.param("ledger", {"user": "clerk", "password": "x"}, "authentication failed", id="another password"),
            pytest.param("ledger", {"user": "nobody"}, "authentication failed", id="nobody that is known"),
            pytest.param("others", {"user": "clerk", "password": "1234"}, "permission denied", id="what is not theirs"),
        ],
    )
    def test_others_are_refused(self, guarded: EtcdCluster, name: str, options: Any, words: str) -> None:
        """At once, with etcd's reason."""
        with pytest.raises(wal.WALEnvironmentError, match=words):
            wal.cluster.open_storage(guarded.endpoints, name, **options)
        with pytest.raises(wal.WALEnvironmentError, match=words):
            wal.cluster.follow(guarded.endpoints, name, **options)

    def test_a_token_that_has_ended_is_replaced(self, guarded: EtcdCluster) -> None:
        """They end when users change and when a member starts anew; saves and followers go on."""
        options: dict[str, Any] = {"user": "clerk", "password": "1234"}
        root = {"name": "root", "password": "secret"}
        with (
            wal.cluster.open_storage(guarded.endpoints, "ledger", **options)[0] as storage,
            wal.cluster.follow(guarded.endpoints, "ledger", **options) as records,
        ):
            storage.save_entry([Entry(1)])
            assert next(records).value == Entry(1)
            guarded.kill(0)
            guarded.restart(0)
            guarded.wait_until_ready()
            storage.save_entry([Entry(2)])
            assert next(records).value == Entry(2)
            assert guarded.post(0, "/v3/auth/authenticate", root)["token"]

    def test_a_right_that_is_taken_away_is_told(self, guarded: EtcdCluster) -> None:
        """The save is refused and leaves no trace; the storage goes on when the right is back."""
        with wal.cluster.open_storage(guarded.endpoints, "ledger", user="clerk", password="1234")[0] as storage:
            storage.save_entry([Entry(1)])
            token = guarded.post(0, "/v3/auth/authenticate", {"name": "root", "password": "secret"})["token"]
            role = {"user": "clerk", "role": "clerks"}
            guarded.post(0, "/v3/auth/user/revoke", {"name": "clerk", "role": "clerks"}, token=token)
            with pytest.raises(wal.WALEnvironmentError, match="permission denied"):
                storage.save_entry([Entry(2, b"refused")])
            token = guarded.post(0, "/v3/auth/authenticate", {"name": "root", "password": "secret"})["token"]
            guarded.post(0, "/v3/auth/user/grant", role, token=token)
            storage.save_entry([Entry(2)])
        again, recovered = wal.cluster.open_storage(guarded.endpoints, "ledger", user="clerk", password="1234")
        again.close()

        assert recovered.entries == [Entry(1), Entry(2)]
