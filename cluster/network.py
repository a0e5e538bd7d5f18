# SPDX-License-Identifier: Apache-2.0
"""
A network of its own in which members can be parted from each other and from who asks them.

Each member lives in a network namespace that is joined to one of two bridges. This process, which must be alone in a
network namespace, is at the first one. So a member on the other bridge sees those that are there too, and nobody else,
and not even the end of a connection is told to the other side.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from contextlib import ExitStack
from typing import Self

__all__ = ["Network"]

_HERE, _BEYOND = "here", "beyond"


class Network:
    """
    A context manager for so many members. It needs the rights of root, and ``ip`` (on Debian: ``iproute2``).

    Attributes:
        hosts: The members' addresses.
        prefixes: What is to stand in front of a command so that it runs where a member lives.
    """

    def __init__(self, members: int) -> None:
        self.hosts = [f"10.99.0.{number + 2}" for number in range(members)]
        self.prefixes: list[list[str]] = []
        self._holders = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self._holders)
            _ip("link set lo up")
            for bridge in (_HERE, _BEYOND):
                _ip(f"link add {bridge} type bridge")
                _ip(f"link set {bridge} up")
            _ip(f"addr add 10.99.0.1/24 dev {_HERE}")
            for number, host in enumerate(self.hosts):
                self._add(number, host)
            undo.pop_all()
        return self

    def _add(self, number: int, host: str) -> None:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE, text=True
        )
        self._holders.callback(holder.wait)
        self._holders.callback(holder.kill)
        assert holder.stdout is not None
        holder.stdout.readline()  # the namespace is there
        self._holders.callback(holder.stdout.close)
        prefix = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        _ip(f"link add member{number} type veth peer name eth0 netns {holder.pid}")
        for command in ("link set lo up", f"addr add {host}/24 dev eth0", "link set eth0 up"):
            _ip(command, prefix)
        _ip(f"link set member{number} master {_HERE} up")
        self.prefixes.append(prefix)

    def part(self, members: Collection[int]) -> None:
        """Let these members see each other alone, and the others all but these."""
        for number in range(len(self.hosts)):
            _ip(f"link set member{number} master {_BEYOND if number in members else _HERE}")

    def join(self) -> None:
        """Let all see all again."""
        self.part(())

    def __exit__(self, *_: object) -> None:
        self._holders.close()


def _ip(command: str, prefix: Collection[str] = ()) -> None:
    subprocess.run([*prefix, "ip", *command.split()], check=True)
