# SPDX-License-Identifier: Apache-2.0
"""These tests are not blind: one difference, planted on either side, is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wal
from wal._files import OPERATING_SYSTEM
from wal.etcd import Entry, HardState

from . import exchange
from .exchange import Life
from .gowal import GoError, GoWAL
from .model import Contents, Save
from .server import Client, Server, put_request
from .test_locks import etcd_opens, write
from .test_server import missing

LIVES = 100


class Fault:
    """A change of what is read or written: ``apply`` returns the changed thing, or the same if it cannot be changed."""

    def __init__(self, place: object, name: str, apply: Callable[[Any], Any]) -> None:
        self.place, self.name, self.apply = place, name, apply
        self.planted = 0

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Change the result of a function."""
        whole = getattr(self.place, self.name)

        def changed(*arguments: Any, **options: Any) -> Any:
            result = whole(*arguments, **options)
            faulty = self.apply(result)
            self.planted += faulty != result
            return faulty

        monkeypatch.setattr(self.place, self.name, changed)


def in_last_entry(**changes: Callable[[Entry], Any]) -> Callable[[Contents], Contents]:
    def apply(contents: Contents) -> Contents:
        if not contents.entries or not contents.entries[-1].data:
            return contents
        last = contents.entries[-1]
        changed = replace(last, **{name: change(last) for name, change in changes.items()})
        return contents._replace(entries=[*contents.entries[:-1], changed])

    return apply


CHANGES: dict[str, Callable[[Contents], Contents]] = {
    "a bit of data": in_last_entry(data=lambda entry: entry.data[:-1] + bytes((entry.data[-1] ^ 1,))),
    "a byte less of data": in_last_entry(data=lambda entry: entry.data[:-1]),
    "another term": in_last_entry(term=lambda entry: entry.term + 1),
    "another index": in_last_entry(index=lambda entry: entry.index + 1),
    "another type": in_last_entry(type=lambda entry: entry.type ^ 1),
    "the last entry is lacking": lambda found: found._replace(entries=found.entries[:-1]),
    "the first entry is lacking": lambda found: found._replace(entries=found.entries[1:]),
    "two entries have changed places": lambda found: found._replace(entries=found.entries[:-2] + found.entries[:-3:-1]),
    "an entry comes twice": lambda found: found._replace(entries=found.entries + found.entries[-1:]),
    "another vote": lambda found: found._replace(state=replace(found.state, vote=found.state.vote ^ 1)),
    "an older commit": lambda found: found._replace(state=replace(found.state, commit=max(found.state.commit - 1, 0))),
    "no state": lambda found: found._replace(state=HardState()),
    "other metadata": lambda found: found._replace(metadata=found.metadata + b"!"),
}

READERS: dict[str, tuple[object, str]] = {
    "wal reads": (exchange, "read"),
    "etcd reads": (GoWAL, "read"),
    "etcd opens": (GoWAL, "open"),
    "wal opens": (exchange, "_contents"),
}


def live_until_found(fault: Fault, directory: Path, go: GoWAL) -> BaseException:
    """Live lives with the fault in them; return how the first one in which it was met came to its end."""
    for number in range(LIVES):
        try:
            Life(number, directory / str(number) / "wal", go).live()
        except (AssertionError, GoError, wal.WALError) as error:
            assert fault.planted, "something else went wrong"
            return error
        assert not fault.planted, "a whole life passed with the fault in it, unnoticed"
    raise AssertionError("the fault was never met")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reader", READERS)
def test_one_difference_in_what_is_read_is_found(
    go: GoWAL, memory: Path, monkeypatch: pytest.MonkeyPatch, reader: str, change: str
) -> None:
    """In the very first life in which it is met, and as a difference."""
    fault = Fault(*READERS[reader], CHANGES[change])
    fault.plant(monkeypatch)

    assert isinstance(live_until_found(fault, memory, go), AssertionError)


OTHERS: dict[str, Fault] = {
    "etcd does not know the last snapshot": Fault(GoWAL, "snapshots", lambda found: found[:-1]),
    "wal does not know the last snapshot": Fault(wal, "valid_snapshots", lambda found: found[:-1]),
    "etcd does not verify it": Fault(GoWAL, "verify", lambda _: "wal: crc mismatch"),
    "wal counts an entry less": Fault(wal, "verify", lambda found: replace(found, entries=found.entries - 1)),
    "etcd does not read it": Fault(GoWAL, "outcome", lambda _: "gap"),
    "wal does not read it": Fault(exchange, "outcome", lambda _: "gap"),
    "a file is another one after reading": Fault(Life, "_listing", lambda found: {**found, "new": str(id(found))}),
}


@pytest.mark.parametrize("fault", OTHERS.values(), ids=OTHERS)
def test_another_difference_is_found(go: GoWAL, memory: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Whatever is compared, is compared."""
    fault.plant(monkeypatch)

    assert isinstance(live_until_found(fault, memory, go), AssertionError)


WRITERS: dict[str, tuple[object, str]] = {"wal": (Life, "_save"), "etcd": (GoWAL, "append")}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_save_that_is_lost_is_found(go: GoWAL, memory: Path, monkeypatch: pytest.MonkeyPatch, writer: str) -> None:
    """The last one of a turn, so that the log itself does not miss it: each time."""
    fault = Fault(*WRITERS[writer], lambda result: result)
    whole = getattr(*WRITERS[writer])

    def write_less(self: Any, place: Any, saves: list[Save], **options: Any) -> Any:
        lost = len(saves) > 1 and not saves[-1].marker
        fault.planted += lost
        return whole(self, place, saves[:-1] if lost else saves, **options)

    monkeypatch.setattr(*WRITERS[writer], write_less)
    with_a_fault, unnoticed = 0, []
    for number in range(LIVES):
        fault.planted = 0
        try:
            Life(number, memory / str(number) / "wal", go).live()
        except AssertionError:
            assert fault.planted
        else:
            unnoticed += [number] * (fault.planted > 0)
        with_a_fault += fault.planted > 0

    assert with_a_fault > LIVES // 2
    assert unnoticed == []


def test_a_request_that_is_lost_is_found() -> None:
    """Of what a server acknowledged, one entry that is missing, changed, or out of order is noticed."""
    client = Client(Server("etcd", Path("nowhere"), snapshot_count=1), "client")
    client.acknowledged = [put_request(b"key %d" % number, b"value") for number in range(5)]
    entries = [Entry(term=1, index=index, data=b"<" + data + b">") for index, data in enumerate(client.acknowledged, 1)]

    def missing_in(entries: list[Entry]) -> list[bytes]:
        return missing(entries, [client])

    assert missing_in(entries) == []
    for place in range(5):
        assert missing_in(entries[:place] + entries[place + 1 :]) == [client.acknowledged[place]]
    assert missing_in([entries[1], entries[0], *entries[2:]]) == [client.acknowledged[1]]
    assert missing_in([replace(entries[0], data=entries[0].data.replace(b"value", b"other")), *entries[1:]]) != []


def test_a_lock_that_does_not_lock_is_found(go: GoWAL, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempts of etcd that are refused elsewhere would be granted."""
    path = memory / "wal"
    write(path)
    monkeypatch.setattr(type(OPERATING_SYSTEM), "lock", lambda _, __: None)

    with wal.read_wal(path, registry=exchange.REGISTRY).wal:
        assert etcd_opens(go, path) == ""
        assert go.lockable(path) != []
