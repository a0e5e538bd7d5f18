"""The fast ways from entries to bytes: exactly the bytes, and the refusals, of the slow ones."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
from wal._crc32c import extend
from wal._frame import Payload, RecordType, encode_frame
from wal._marks import CODES, Mark, marks_of_save
from wal._marshal import Marshaller


@pytest.fixture(scope="module", params=["_codec", "_codec_compiled"])
def codec(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The one written for the interpreter, and the one for mypyc, be it compiled or not."""
    codec = pytest.importorskip(f"wal.{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wal._marshal.marshal_entries", codec.marshal_entries)
        yield codec


METADATA, ENTRY, STATE, CRC, SNAPSHOT = (type.value for type in RecordType)

# ------------------------------------------------------------------------------------- payloads to frames


def frame_by_frame(saves: list[list[Payload]], crc: int, *, synced: bool, save_marks: bool) -> tuple[bytes, int]:
    """What ``encode_group`` returns, by the plain words of its description."""
    frames = []
    for save in saves:
        marks = marks_of_save(len(save), synced=synced) if save_marks else [Mark.NONE] * len(save)
        for (type, data), mark in zip(save, marks, strict=True):
            crc = crc if type == CRC else extend(crc, data)
            frames.append(encode_frame(type, crc, data, CODES[type][mark]))
        synced = False
    return b"".join(frames), crc


# Where the length of a CRC or of data changes, and where what goes with a length is not kept any more.
CRCS = [0, 1, *(2**bits + more for bits in (7, 14, 21, 28) for more in (-1, 0)), 2**32 - 1]
LENGTHS = [0, 1, 2, 7, 8, 100, 127, 128, 511, 512, 4095, 4096, 4097, 16_383, 16_384]

crcs = st.sampled_from(CRCS) | st.integers(0, 2**32 - 1)
data = st.binary(max_size=20) | st.builds(
    lambda length, byte: byte * length, st.sampled_from(LENGTHS), st.binary(min_size=1, max_size=1)
)
payloads = st.tuples(st.sampled_from([METADATA, ENTRY, STATE, SNAPSHOT]), data) | st.just((CRC, b""))
saves = st.lists(payloads, min_size=1, max_size=12)


@given(group=st.lists(saves, max_size=5), crc=crcs, synced=st.booleans(), save_marks=st.booleans())
def test_a_group_is_its_frames(
    codec: Any, group: list[list[Payload]], crc: int, synced: bool, save_marks: bool
) -> None:
    """Saves encoded together are their frames one by one: any types, lengths, CRCs and marks, in any mixture."""
    expected = frame_by_frame(group, crc, synced=synced, save_marks=save_marks)

    assert codec.encode_group(group, crc, synced=synced, save_marks=save_marks) == expected


@pytest.mark.parametrize("type", [METADATA, ENTRY, STATE, CRC, SNAPSHOT])
@pytest.mark.parametrize("crc", CRCS)
def test_every_length_of_a_crc(codec: Any, type: int, crc: int) -> None:
    """Empty records leave the chain as it is; it is written in as few bytes as it takes, in every place of a save."""
    for count in (*range(1, 10), 40):
        save = [(type, b"")] * count
        for synced in (False, True):
            expected = frame_by_frame([save], crc, synced=synced, save_marks=True)
            assert codec.encode_group([save], crc, synced=synced, save_marks=True) == expected


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_of_data(codec: Any, length: int) -> None:
    """The same for data, when its length is met first and when it was met before."""
    save = [(ENTRY, bytes([number]) * length) for number in range(40)]
    expected = frame_by_frame([save], 1, synced=True, save_marks=True)
    for _ in range(2):
        assert codec.encode_group([save], 1, synced=True, save_marks=True) == expected


runs = st.tuples(
    st.sampled_from([ENTRY, ENTRY, ENTRY, STATE, SNAPSHOT]),
    st.sampled_from([0, 3, 4, 5, 6, 7, 8, 9, 10, 100, 511, 512, 513]),
    st.sampled_from([1, 15, 16, 17, 50]),
)


@given(
    runs=st.lists(runs, min_size=1, max_size=4),
    crc=crcs,
    synced=st.booleans(),
    save_marks=st.booleans(),
    in_saves_of=st.sampled_from([1, 3, 1000]),
)
def test_runs_of_equal_length(
    codec: Any, runs: list[tuple[int, int, int]], crc: int, synced: bool, save_marks: bool, in_saves_of: int
) -> None:
    """Many records of equal length in a row, then many of another length or type."""
    numbers = random.Random(repr(runs))
    records = [(type, numbers.randbytes(length)) for type, length, count in runs for _ in range(count)]
    group = [records[at : at + in_saves_of] for at in range(0, len(records), in_saves_of)]
    expected = frame_by_frame(group, crc, synced=synced, save_marks=save_marks)

    assert codec.encode_group(group, crc, synced=synced, save_marks=save_marks) == expected


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 6, 511, 512, 513, 1024, 1025, 2000])
@pytest.mark.parametrize("in_saves_of", [1, 2, 10_000])
@pytest.mark.parametrize("synced", [False, True])
def test_many_records(codec: Any, count: int, in_saves_of: int, synced: bool) -> None:
    """However many there are, in one save or in several."""
    records = [(ENTRY if number % 3 else STATE, b"%d" % number) for number in range(count)]
    group = [records[at : at + in_saves_of] for at in range(0, count, in_saves_of)]
    expected = frame_by_frame(group, 7, synced=synced, save_marks=True)

    assert codec.encode_group(group, 7, synced=synced, save_marks=True) == expected


# ------------------------------------------------------------------------------------- entries to payloads


def one_by_one(
    entries: Iterable[Any], registry: wal.RecordRegistry | None, max_record_bytes: int
) -> tuple[list[Payload], range]:
    """What ``Marshaller.entries`` returns and raises, by the plain words of its description."""
    cls = (registry or wal.RecordRegistry()).entry
    records: list[Payload] = []
    first = 0
    for entry in entries:
        if not isinstance(entry, cls):
            raise wal.RecordTypeError(
                f"{entry!r:.80} is a {type(entry).__qualname__}; this log's registry has {cls.__qualname__}"
            )
        index = entry.index
        if type(index) is not int:
            raise wal.RecordTypeError(f"the index of {entry!r:.80} must be an int, not {type(index).__qualname__}")
        if records and index != first + len(records):
            expected = first + len(records)
            raise wal.IndexOrderError(
                index, expected, f"entry {index} follows entry {expected - 1}; indexes of a save are consecutive"
            )
        first = first if records else index
        if not 0 <= index <= 2**64 - 2:
            raise wal.IndexOrderError(index, 2**64 - 2, f"entry {index} must have an index from 1 to {2**64 - 2}")
        data = entry.marshal()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise wal.RecordTypeError(
                f"what {type(entry).__qualname__}.marshal() returns must be bytes, not {type(data).__qualname__}"
            )
        if len(bytes(data)) > max_record_bytes:
            raise wal.EntryTooLargeError(len(data), max_record_bytes)
        records.append((ENTRY, bytes(data)))
    return records, range(first, first + len(records))


def outcome(call: Any, entries: list[Any], *args: Any) -> Any:
    """What comes of the call, an error being its class and text, and how many entries were taken for it."""
    taken = 0

    def each() -> Iterator[Any]:
        nonlocal taken
        for entry in entries:
            taken += 1
            yield entry

    try:
        result = call(each(), *args)
    except Exception as error:
        result = type(error), str(error)
    return result, taken


class Number(IntEnum):
    """A type that an application names."""

    PUT = 1


class Bytes(bytes):
    """Bytes of an application's own."""


class Own(wal.Entry):
    """An entry of an application's own, which marshals its own way."""

    def marshal(self) -> bytes:
        return b"own" + super().marshal()


class Strange(wal.Entry):
    """An entry whose ``marshal`` returns whatever its data are."""

    def marshal(self) -> bytes:
        return self.data


# Where the length of an index changes, and where indexes end.
FIRSTS = [
    -130,
    -2,
    -1,
    0,
    1,
    120,
    127,
    128,
    250,
    16_380,
    2**21 - 3,
    2**56,
    2**60 - 4,
    2**63 - 4,
    2**64 - 4,
    2**64 - 1,
    2**64,
]
ODD: dict[str, list[Any]] = {
    "index": [True, Number.PUT, 200.0, 201.0, 202.0, None, "1", -1, -2, 0, 1, 127, 128, 199, 203, 2**63, 2**64],
    "data": [b"bytes", Bytes(b"own"), bytearray(b"array"), memoryview(b"view"), "text", "", None, 7],
    "type": [True, False, Number.PUT, 1.0, 0.0, None, "1", -1, 1, 127, 128, 300, 2**64 - 1, 2**64],
}
NOT_ENTRIES = [None, 7, b"entry", wal.CommitState(1), wal.etcd.Entry(index=1)]


def odd_entry(index: int, what: str, value: Any) -> Any:
    """An entry with this value in a field; or one of a class of its own with these data; or no entry at all."""
    if what == "entry":
        return value
    if what in ("own", "strange"):
        return (Own if what == "own" else Strange)(index, value)
    entry = wal.Entry(index, b"data")
    setattr(entry, what, value)
    return entry


ODD_ENTRIES = [
    *((what, value) for what, values in ODD.items() for value in values),
    *(("own", value) for value in ODD["data"]),
    *(("strange", value) for value in ODD["data"]),
    *(("entry", value) for value in NOT_ENTRIES),
]


@pytest.mark.parametrize(
    ("what", "value"), ODD_ENTRIES, ids=lambda value: "a-view" if isinstance(value, memoryview) else f"{value!r:.30}"
)
def test_an_odd_entry_among_others(codec: Any, what: str, value: Any) -> None:
    """Wherever it stands, it is what it is by itself, and so are those around it."""
    for place in range(3):
        entries: list[Any] = [wal.Entry(index, b"data") for index in range(200, 203)]
        entries[place] = odd_entry(200 + place, what, value)

        assert outcome(Marshaller(None, 1000).entries, entries) == outcome(one_by_one, entries, None, 1000)


@st.composite
def lists_of_entries(draw: st.DrawFn) -> list[Any]:
    """Consecutive canonical entries of one type, with now and then one that is something else."""
    first = draw(st.sampled_from(FIRSTS) | st.integers(1, 2**64))
    kind = draw(st.sampled_from([0, 0, 0, *ODD["type"]]))
    entries: list[Any] = []
    for index in range(first, first + draw(st.integers(0, 8))):
        odd = draw(st.none() | st.none() | st.none() | st.sampled_from(ODD_ENTRIES))
        entries.append(odd_entry(index, *odd) if odd else wal.Entry(index, draw(data), kind))
    return entries


@given(entries=lists_of_entries(), max_record_bytes=st.sampled_from([1, 5, 30, 40, 140, 4110, 10_000, 10**7]))
def test_entries_are_marshalled_one_by_one(codec: Any, entries: list[Any], max_record_bytes: int) -> None:
    """Entries in any number, of any content, give what each gives by itself, or the first one's refusal."""
    marshaller = Marshaller(None, max_record_bytes)

    assert outcome(marshaller.entries, entries) == outcome(one_by_one, entries, None, max_record_bytes)


@given(entries=lists_of_entries())
def test_entries_of_a_registered_class(codec: Any, entries: list[Any]) -> None:
    """A class that was registered marshals its own way, even if it is a kind of the default one."""
    registry = wal.RecordRegistry()
    registry.register(RecordType.ENTRY, Own)
    entries = [Own(e.index, e.data, e.type) if type(e) is wal.Entry and e.index != 130 else e for e in entries]

    assert outcome(Marshaller(registry, 10**7).entries, entries) == outcome(one_by_one, entries, registry, 10**7)


@pytest.mark.parametrize("first", FIRSTS)
@pytest.mark.parametrize("kind", [0, 1])
def test_every_length_of_an_index(codec: Any, first: int, kind: int) -> None:
    """Indexes of every length, and those that no log can have, across every change of their length."""
    for count in range(1, 9):
        entries = [wal.Entry(index, b"data", kind) for index in range(first, first + count)]

        assert outcome(Marshaller(None, 1000).entries, entries) == outcome(one_by_one, entries, None, 1000)


@pytest.mark.parametrize("first", [1, 100, 16_300])
@pytest.mark.parametrize("length", [0, 1, 111, 127, 128, 4096, 4097])
def test_many_entries(codec: Any, first: int, length: int) -> None:
    """Hundreds of entries in a row, across every change of what they have in common."""
    entries = [
        wal.Entry(first + number, bytes(length if number % 50 else number), number // 70) for number in range(400)
    ]

    assert Marshaller(None, 10**7).entries(entries) == one_by_one(entries, None, 10**7)


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("length", [100, 5000])
def test_the_longest_entry(codec: Any, length: int, over: int) -> None:
    """An entry as long as is allowed is taken, one that is a byte longer is not."""
    entries = [wal.Entry(200, bytes(length)), wal.Entry(201, bytes(length + over))]
    marshaller = Marshaller(None, len(entries[0].marshal()))

    assert (outcome(marshaller.entries, entries)[0][0] is wal.EntryTooLargeError) == bool(over)


# -------------------------------------------------------------------------------------- which of them is used

SAVES = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import tempfile, types, wal
with wal.WAL.create(tempfile.mkdtemp() + "/wal") as log:
    log.save(None, [wal.Entry(index, b"data") for index in range(1, 200)])
functions = wal._encoder.encode_group, wal._marshal.marshal_entries
print(wal.__compiled__, *(isinstance(function, types.BuiltinFunctionType) for function in functions))
"""


@pytest.mark.parametrize("missing", [[], ["librt"]], ids=["all-is-there", "without-the-library-of-what-is-compiled"])
def test_what_is_compiled_is_used_if_it_can_be(tmp_path: Path, missing: list[str]) -> None:
    """``wal.__compiled__`` says which codec is in use; extension modules that cannot be loaded are done without."""
    done = subprocess.run(
        [sys.executable, "-c", SAVES, *missing],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    compiled = wal.__compiled__ and not missing

    assert (done.stdout, done.stderr) == (f"{compiled} {compiled} {compiled}\n", "")
