# SPDX-License-Identifier: Apache-2.0
"""
A disk in memory that knows what each crash would leave of it.

It keeps what a running system sees, and beside it what has been synced and the changes that have not. When the
process is killed, the system still has all of it. When the power goes, what was synced is there, and of the changes
since then any part may be: some and not others, whatever their order; a write in pieces; and in the place of a lost
piece what was there before, zeros, or garbage.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import ClassVar, NamedTuple

__all__ = ["Crash", "SimulatedDisk"]

Files = Mapping[str, bytes | None]
"""Files with their bytes, and directories with ``None``, by the path from the disk's top."""


class Crash(NamedTuple):
    """
    What one crash leaves.

    Attributes:
        name: What happened, in words that tell it from the others of the same moment.
        files: The files with their bytes and the directories with ``None``, by their path from the disk's top.
            ``SimulatedDisk(crash.files)`` is the disk after the restart.
    """

    name: str
    files: dict[str, bytes | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Write:
    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        content.extend(bytes(max(0, self.offset - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(frozen=True, slots=True, eq=False)
class _Resize:
    size: int
    only_grow: bool

    def apply(self, content: bytearray) -> None:
        if not self.only_grow:
            del content[self.size :]
        content.extend(bytes(max(0, self.size - len(content))))


@dataclass(slots=True, eq=False)
class _Names:
    """Names that come or go in one step; ``None`` is a name that goes."""

    change: dict[str, _Node | None]

    def apply(self, names: dict[str, _Node]) -> None:
        for name, node in self.change.items():
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node


_Change = _Write | _Resize | _Names


@dataclass(slots=True, eq=False)
class _Node:
    """A file with its content, or a directory with its names: as it is, as it was synced, and what lies between."""

    content: bytearray = field(default_factory=bytearray)
    names: dict[str, _Node] | None = None
    synced_content: bytearray = field(default_factory=bytearray)
    synced_names: dict[str, _Node] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)
    locked_by: int | None = None

    def change(self, change: _Change) -> None:
        if isinstance(change, _Names):
            assert self.names is not None
            change.apply(self.names)
        else:
            change.apply(self.content)
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            if isinstance(change, _Names):
                change.apply(self.synced_names)
            else:
                change.apply(self.synced_content)
        self.pending = []


_Choice = Callable[[_Change], Iterator[_Change]]
"""What a power cut makes of a pending change: nothing, the change, or parts of it."""

_FILLS: dict[str, Callable[[int], bytes]] = {
    "what was there": lambda _: b"",
    "zeros": bytes,
    "garbage": lambda length: b"\xa5" * length,
}
_GRAINS = {"sectors": 512, "pages": 4096, "bytes": 1}


class SimulatedDisk:
    """
    A ``FileSystem`` in memory, to be given as ``fs=``.

    For each moment of a program it tells what a crash would leave, so that the recovery can be tried for all of them::

        disk = SimulatedDisk()
        disk.before_change = lambda what: moments.append(list(disk.crashes(random)))
        with wal.WAL.create(disk.top / "log", segment_size=4096, fs=disk) as log:
            ...
        for crash in ...:
            wal.read_wal(disk.top / "log", fs=SimulatedDisk(crash.files))

    Files are held in memory whole, with the space reserved for them: choose a small ``segment_size``. Not
    thread-safe.

    Args:
        files: What is there at the beginning, synced: bytes for a file, ``None`` for a directory.

    Attributes:
        top: The directory that everything is in. Nothing of that name is touched on the real disk.
        before_change: Called before each change, and once in the middle of each write, with its name.
    """

    top: ClassVar[Path] = Path("/simulated disk")

    def __init__(self, files: Files | None = None) -> None:
        self.before_change: Callable[[str], object] = lambda _: None
        self._root = _Node(names={})
        self._open: dict[int, _Node] = {}
        self._numbers = count(3)
        for path, content in sorted((files or {}).items()):
            directory, name = self._parent(self.top / path)
            node = _Node(names={}) if content is None else _Node(bytearray(content), None, bytearray(content))
            directory.change(_Names({name: node}))
            directory.sync()

    # ---------------------------------------------------------------------------------------------- what is there

    def files(self) -> dict[str, bytes | None]:
        """Return what a running system sees."""
        return dict(_tree(self._root, "", None))

    def synced_files(self) -> dict[str, bytes | None]:
        """Return what is left if nothing is but what was synced."""
        return dict(_tree(self._root, "", lambda _: iter(())))

    def killed(self) -> SimulatedDisk:
        """Return the disk as the next process finds it; what is not synced is still not."""
        disk = SimulatedDisk()
        disk._root = _copy(self._root, {})
        return disk

    def is_locked(self, path: Path) -> bool:
        """Tell whether somebody holds the lock of a file or a directory."""
        return self._find(path).locked_by is not None

    # -------------------------------------------------------------------------------------------------- the crashes

    def crashes(self, random: Random, *, subsets: int = 32) -> Iterator[Crash]:
        """
        Yield what power cuts at this moment may leave, no two the same.

        Of the pending changes none is there; all; all but one, for each; each number of first ones; and so many
        random parts of them, in which writes are split at sectors, pages or anywhere. What is lost of a write
        leaves what was there before, zeros, or garbage.

        Args:
            random: Chooses the random parts.
            subsets: How many of them.
        """
        pending = list(_pending(self._root))
        seen: set[frozenset[tuple[str, bytes | None]]] = set()
        for name, choice in _choices(pending, random, subsets):
            files = dict(_tree(self._root, "", choice))
            key = frozenset(files.items())
            if key not in seen:
                seen.add(key)
                yield Crash(name, files)

    # -------------------------------------------------------------------------------------------------- the calls

    def _find(self, path: Path) -> _Node:
        node = self._root
        for name in path.relative_to(self.top).parts:
            if node.names is None or name not in node.names:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            node = node.names[name]
        return node

    def _parent(self, path: Path) -> tuple[_Node, str]:
        directory = self._find(path.parent)
        if directory.names is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent))
        return directory, path.name

    def _add(self, path: Path, node: _Node) -> None:
        directory, name = self._parent(path)
        assert directory.names is not None
        if name in directory.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        directory.change(_Names({name: node}))

    def open(self, path: Path, flags: int) -> int:
        """See ``FileSystem``."""
        if flags & os.O_CREAT:
            self.before_change("create a file")
            self._add(path, _Node())
        fd = next(self._numbers)
        self._open[fd] = self._find(path)
        return fd

    def close(self, fd: int) -> None:
        """See ``FileSystem``."""
        node = self._open.pop(fd)
        if node.locked_by == fd:
            node.locked_by = None

    def size(self, fd: int) -> int:
        """See ``FileSystem``."""
        return len(self._open[fd].content)

    def is_at(self, fd: int, path: Path) -> bool:
        """See ``FileSystem``."""
        try:
            return self._find(path) is self._open[fd]
        except FileNotFoundError:
            return False

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See ``FileSystem``."""
        return bytes(self._open[fd].content[offset : offset + length])

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """See ``FileSystem``."""
        node, data = self._open[fd], bytes(data)
        half = len(data) // 2
        self.before_change("write")
        node.change(_Write(offset, data[:half]))
        self.before_change("write the other half")
        node.change(_Write(offset + half, data[half:]))
        return len(data)

    def truncate(self, fd: int, size: int) -> None:
        """See ``FileSystem``."""
        self.before_change("truncate")
        self._open[fd].change(_Resize(size, only_grow=False))

    def allocate(self, fd: int, size: int) -> None:
        """See ``FileSystem``."""
        self.before_change("allocate")
        self._open[fd].change(_Resize(size, only_grow=True))

    def fdatasync(self, fd: int) -> None:
        """See ``FileSystem``."""
        self.fsync(fd)

    def fsync(self, fd: int) -> None:
        """See ``FileSystem``."""
        self.before_change("sync")
        self._open[fd].sync()

    def lock(self, fd: int) -> None:
        """See ``FileSystem``."""
        node = self._open[fd]
        if node.locked_by not in (None, fd):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        node.locked_by = fd

    def unlock(self, fd: int) -> None:
        """See ``FileSystem``."""
        self._open[fd].locked_by = None

    lock_directory = lock
    unlock_directory = unlock

    def rename(self, old: Path, new: Path) -> None:
        """See ``FileSystem``. Only inside of one directory."""
        self.before_change("rename")
        assert old.parent == new.parent, "the names of two directories do not change in one step"
        node = self._find(old)
        directory, name = self._parent(new)
        directory.change(_Names({old.name: None, name: node}))

    def unlink(self, path: Path) -> None:
        """See ``FileSystem``."""
        self.before_change("unlink")
        self._find(path)
        directory, name = self._parent(path)
        directory.change(_Names({name: None}))

    def mkdir(self, path: Path) -> None:
        """See ``FileSystem``."""
        self.before_change("make a directory")
        self._add(path, _Node(names={}))

    def rmdir(self, path: Path) -> None:
        """See ``FileSystem``."""
        self.before_change("remove a directory")
        if self._find(path).names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        directory, name = self._parent(path)
        directory.change(_Names({name: None}))

    def is_directory(self, path: Path) -> bool:
        """See ``FileSystem``."""
        try:
            return self._find(path).names is not None
        except FileNotFoundError:
            return False

    def listdir(self, path: Path) -> list[str]:
        """See ``FileSystem``."""
        names = self._find(path).names
        if names is None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return list(names)


def _tree(directory: _Node, prefix: str, choice: _Choice | None) -> Iterator[tuple[str, bytes | None]]:
    """Yield what is in a directory: all of it, or what a power cut with this choice leaves."""
    if choice is None:
        names = directory.names or {}
    else:
        names = dict(directory.synced_names)
        for change in _kept(directory, choice):
            assert isinstance(change, _Names)
            change.apply(names)
    for name, node in sorted(names.items()):
        if node.names is not None:
            yield prefix + name, None
            yield from _tree(node, f"{prefix}{name}/", choice)
        elif choice is None:
            yield prefix + name, bytes(node.content)
        else:
            content = bytearray(node.synced_content)
            for change in _kept(node, choice):
                assert not isinstance(change, _Names)
                change.apply(content)
            yield prefix + name, bytes(content)


def _kept(node: _Node, choice: _Choice) -> Iterator[_Change]:
    for change in node.pending:
        yield from choice(change)


def _pending(node: _Node) -> Iterator[_Change]:
    """Yield the changes that are not synced, of everything that some crash may leave."""
    yield from node.pending
    if node.names is not None:
        children = dict.fromkeys((*node.synced_names.values(), *node.names.values()))
        for change in node.pending:
            assert isinstance(change, _Names)
            children.update(dict.fromkeys(child for child in change.change.values() if child is not None))
        for child in children:
            yield from _pending(child)


def _copy(node: _Node, copies: dict[_Node, _Node]) -> _Node:
    if node not in copies:
        copy = copies[node] = _Node(bytearray(node.content), None, bytearray(node.synced_content))
        if node.names is not None:
            copy.names = {name: _copy(child, copies) for name, child in node.names.items()}
        copy.synced_names = {name: _copy(child, copies) for name, child in node.synced_names.items()}
        for change in node.pending:
            if isinstance(change, _Names):
                names = {name: child and _copy(child, copies) for name, child in change.change.items()}
                copy.pending.append(_Names(names))
            else:
                copy.pending.append(change)
    return copies[node]


def _choices(pending: list[_Change], random: Random, subsets: int) -> Iterator[tuple[str, _Choice]]:
    for fill in _FILLS:
        lost = f"what is lost of a write is {fill}"
        yield f"nothing is there, {lost}", _those([], fill)
        for number in range(len(pending)):
            yield f"all but change {number} is there, {lost}", _those(pending[:number] + pending[number + 1 :], fill)
        for number in range(1, len(pending) + 1):
            yield f"the first {number} changes are there, {lost}", _those(pending[:number], fill)
        for _ in range(subsets if pending else 0):
            seed, grain = random.getrandbits(32), random.choice(list(_GRAINS))
            yield f"parts by seed {seed}, split at {grain}, are there, {lost}", _parts(pending, seed, grain, fill)


def _those(kept: list[_Change], fill: str) -> _Choice:
    """Keep these changes and lose the others."""
    there = {id(change) for change in kept}

    def choice(change: _Change) -> Iterator[_Change]:
        if id(change) in there:
            yield change
        elif isinstance(change, _Write):
            yield from _lost(change.offset, len(change.data), fill)

    return choice


def _lost(offset: int, length: int, fill: str) -> Iterator[_Change]:
    """Yield what stands where so many bytes were lost, if it is not what was there before."""
    data = _FILLS[fill](length)
    if data:
        yield _Write(offset, data)


def _parts(pending: list[_Change], seed: int, grain: str, fill: str) -> _Choice:
    """Keep some changes, lose some, and keep parts of the other writes."""
    random = Random(seed)  # noqa: S311 - no secret
    fates = {id(change): random.choice(("kept", "lost", "split")) for change in pending}

    def choice(change: _Change) -> Iterator[_Change]:
        fate = fates[id(change)]
        if fate == "kept":
            yield change
        elif isinstance(change, _Write):
            stop = change.offset + len(change.data)
            borders = sorted({change.offset, stop, *_borders(random, change.offset, stop, _GRAINS[grain])})
            for begin, end in pairwise(borders):
                if fate == "split" and random.random() < 0.5:
                    yield _Write(begin, change.data[begin - change.offset : end - change.offset])
                else:
                    yield from _lost(begin, end - begin, fill)

    return choice


def _borders(random: Random, start: int, stop: int, grain: int) -> list[int]:
    """Return where a write may be torn: at each multiple of ``grain``, or at one place anywhere."""
    if grain > 1:
        return list(range(start + -start % grain, stop, grain))
    return [random.randrange(start, stop)] if stop > start else []
