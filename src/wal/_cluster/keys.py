# SPDX-License-Identifier: Apache-2.0
"""
The keys of a storage.

::

    {name}/format                        what was given when it was made; never changes
    {name}/owner                         who may write
    {name}/tail                          where the log ends, and what the last save said
    {name}/b/{number:020d}               one group of saves
    {name}/m/{index:020d}                a snapshot that the log knows, and where its bytes are
    {name}/s/{index:020d}/{upload}/{chunk:06d}    some of them

An upload has a name of its own, so that a request that was delayed on the network cannot hit another one.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Keys"]


class Keys(NamedTuple):
    """The keys of the storage with a name."""

    name: str

    @classmethod
    def of(cls, name: str) -> Keys:
        """
        Return the keys of a storage.

        Raises:
            ValueError: That is no name.
        """
        if not isinstance(name, str) or not name.strip("/") or name.endswith("/") or "\0" in name:
            raise ValueError(f"a storage's name is a prefix of keys that does not end with '/', not {name!r}")
        return cls(name)

    @property
    def format(self) -> bytes:
        """What was given when the storage was made."""
        return f"{self.name}/format".encode()

    @property
    def owner(self) -> bytes:
        """Who may write."""
        return f"{self.name}/owner".encode()

    @property
    def tail(self) -> bytes:
        """Where the log ends."""
        return f"{self.name}/tail".encode()

    @property
    def everything(self) -> tuple[bytes, bytes]:
        """The range of all keys."""
        return f"{self.name}/".encode(), f"{self.name}0".encode()  # "0" comes after "/"

    def batch(self, number: int) -> bytes:
        """One group of saves."""
        return f"{self.name}/b/{number:020d}".encode()

    @property
    def batches_end(self) -> bytes:
        """What comes after all batches."""
        return f"{self.name}/b0".encode()

    def manifest(self, index: int) -> bytes:
        """A snapshot that the log knows."""
        return f"{self.name}/m/{index:020d}".encode()

    @property
    def manifests_end(self) -> bytes:
        """What comes after all manifests."""
        return f"{self.name}/m0".encode()

    def chunks(self, index: int, upload: str = "") -> bytes:
        """What the chunks of an upload begin with, or those of all uploads of an index."""
        return f"{self.name}/s/{index:020d}/{upload}{'/' if upload else ''}".encode()

    def chunk(self, index: int, upload: str, number: int) -> bytes:
        """One chunk of a snapshot."""
        return self.chunks(index, upload) + b"%06d" % number

    @property
    def chunks_end(self) -> bytes:
        """What comes after all chunks."""
        return f"{self.name}/s0".encode()

    def number_of(self, key: bytes) -> int:
        """
        Return the number of a batch, or the index of a manifest.

        Raises:
            ValueError: The key is not of that form.
        """
        digits = key.rpartition(b"/")[2]
        if len(digits) != 20 or not digits.isdigit():
            raise ValueError(f"{key!r} does not end with a number of twenty digits")
        return int(digits)

    def upload_of(self, key: bytes) -> tuple[int, str]:
        """
        Return the index and the upload of a chunk.

        Raises:
            ValueError: The key is not of that form.
        """
        index, upload, _ = key.removeprefix(f"{self.name}/s/".encode()).split(b"/")
        return int(index), upload.decode()
