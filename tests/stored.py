"""What stands in an etcd cluster, seen and changed beside the library."""

from __future__ import annotations

import base64
from typing import Any

from etcd_cluster import EtcdCluster

__all__ = ["Stored"]


class Stored:
    """The keys that begin with a storage's name; they are named by the rest."""

    def __init__(self, cluster: EtcdCluster, name: str) -> None:
        self._cluster = cluster
        self._prefix = f"{name}/"

    def all(self) -> dict[str, bytes]:
        """All keys with their values, in order."""
        answer = self._post("range", {"key": self._key(""), "range_end": _text(self._prefix[:-1].encode() + b"0")})
        kvs = answer.get("kvs", [])
        return {self._name(kv["key"]): base64.b64decode(kv.get("value", "")) for kv in kvs}

    def get(self, key: str) -> bytes:
        """One value."""
        return self.all()[key]

    def put(self, key: str, value: bytes) -> None:
        """Put another value, or a key that was not there."""
        self._post("put", {"key": self._key(key), "value": _text(value)})

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._post("deleterange", {"key": self._key(key)})

    def restore(self, keys: dict[str, bytes]) -> None:
        """Let everything be as it was."""
        now = self.all()
        for key in now.keys() - keys.keys():
            self.delete(key)
        for key, value in keys.items():
            if now.get(key) != value:
                self.put(key, value)

    def _post(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._cluster.post(0, f"/v3/kv/{what}", body)

    def _key(self, key: str) -> str:
        return _text(f"{self._prefix}{key}".encode())

    def _name(self, key: str) -> str:
        return base64.b64decode(key).decode().removeprefix(self._prefix)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
