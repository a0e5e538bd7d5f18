"""CRC-32C: every implementation gives the same values, and the best one that is installed is taken."""

from __future__ import annotations

import functools
import json
import logging
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wal
from wal import _crc32c

Extend = Callable[[int, bytes], int]

# The examples of RFC 3720, appendix B.4, as numbers.
RFC_3720 = [
    pytest.param(bytes(32), 0x8A9136AA, id="32-zeros"),
    pytest.param(b"\xff" * 32, 0x62A8AB43, id="32-ones"),
    pytest.param(bytes(range(32)), 0x46DD794E, id="incrementing"),
    pytest.param(bytes(reversed(range(32))), 0x113FDB5C, id="decrementing"),
    pytest.param(
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 0000001828000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
        id="iscsi-read-pdu",
    ),
]


SHORT = "_crc32c_compiled"
"""The one of our own, for short data, be it compiled or not."""


@functools.cache
def backend(name: str) -> Extend:
    if name == SHORT:
        extend_short: Extend = pytest.importorskip(f"wal.{SHORT}").extend_short
        return extend_short
    try:
        return _crc32c.BACKENDS[name]()
    except ImportError as error:
        pytest.skip(f"{name} is not installed: {error}")


@pytest.fixture(params=[*_crc32c.BACKENDS, SHORT])
def extend(request: pytest.FixtureRequest) -> Extend:
    """One implementation after the other."""
    return backend(request.param)


def slow(crc: int, data: bytes) -> int:
    """CRC-32C by its definition: the remainder of a division, bit by bit, reflected, both ends inverted."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def pairs(count: int, longest: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Random seeds and data; every length up to 70 is among them, since implementations work in blocks of eight."""
    numbers = random.Random(seed)
    for at in range(count):
        length = at if at <= 70 else numbers.randrange(longest)
        crc = numbers.choice((0, 1, 2**31, 2**32 - 1, numbers.randrange(2**32)))
        yield crc, numbers.randbytes(length)


@pytest.mark.parametrize(("data", "value"), RFC_3720)
def test_rfc_3720(extend: Extend, data: bytes, value: int) -> None:
    """Each implementation gives the values of RFC 3720."""
    assert extend(0, data) == value


def test_known_values(extend: Extend) -> None:
    """The usual check value, and nothing changes the CRC if there are no data."""
    assert extend(0, b"123456789") == 0xE3069283
    assert extend(0, b"") == 0
    assert extend(0x12345678, b"") == 0x12345678
    assert extend(2**32 - 1, b"") == 2**32 - 1


def test_each_follows_the_definition(extend: Extend) -> None:
    """Random data with random seeds give what the polynomial says."""
    for crc, data in pairs(300, 100, seed=1):
        assert extend(crc, data) == slow(crc, data), (crc, data)


def test_all_are_equal(extend: Extend) -> None:
    """3,000 random pairs of seed and data, up to several blocks long, have one value only."""
    for crc, data in pairs(3_000, 5_000, seed=2):
        assert extend(crc, data) == _crc32c.extend(crc, data), (crc, data)


def test_a_large_input(extend: Extend) -> None:
    """Implementations that work in long blocks join them rightly."""
    data = random.Random(3).randbytes(3_000_001)
    whole = extend(7, data)
    assert whole == _crc32c.extend(7, data)
    assert whole == extend(extend(7, data[:1_234_567]), data[1_234_567:])


@given(name=st.sampled_from([*_crc32c.BACKENDS, SHORT]), crc=st.integers(0, 2**32 - 1), parts=st.lists(st.binary()))
def test_chaining(name: str, crc: int, parts: list[bytes]) -> None:
    """A CRC that is extended part by part is that of the whole."""
    extend = backend(name)
    chain = crc
    for part in parts:
        chain = extend(chain, part)
        assert 0 <= chain < 2**32
    assert chain == extend(crc, b"".join(parts)) == slow(crc, b"".join(parts))


def test_the_one_in_use_is_named() -> None:
    """``crc_backend()`` names the first implementation that can be loaded."""
    assert wal.crc_backend() in _crc32c.BACKENDS
    for name in _crc32c.BACKENDS:
        try:
            _crc32c.BACKENDS[name]()
        except ImportError:
            continue
        assert wal.crc_backend() == name
        break


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The warnings logged so far, in a process that has not given its one warning yet."""
    _crc32c.warn_if_slow.cache_clear()
    caplog.set_level(logging.WARNING, logger="wal")
    yield lambda: [record.getMessage() for record in caplog.records if record.name == "wal"]
    _crc32c.warn_if_slow.cache_clear()


def test_the_slow_one_warns_once(warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pure Python is reported through ``logging``, once per process, with the way out of it."""
    monkeypatch.setattr(_crc32c, "_backend", "crcmod (pure Python)")
    for _ in range(3):
        _crc32c.warn_if_slow()
    (message,) = warnings()
    assert "wal[fast]" in message


@pytest.mark.parametrize("name", ["crc32c", "google-crc32c", "crcmod"])
def test_a_fast_one_does_not_warn(
    warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nobody is bothered where C code does the work."""
    monkeypatch.setattr(_crc32c, "_backend", name)
    _crc32c.warn_if_slow()
    assert warnings() == []


# What a process says in which the given modules cannot be imported: the choice, its values, what it logs, and
# whatever importing the library warned of.
PROGRAM = """
import json, logging, sys, warnings
for name in sys.argv[1:]:
    sys.modules[name] = None
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("wal").addHandler(handler)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import wal
from wal import _crc32c
pairs = [(crc, bytes.fromhex(data)) for crc, data in json.load(sys.stdin)]
values = [_crc32c.extend(crc, data) for crc, data in pairs]
assert values == [_crc32c.native(*(data, crc) if _crc32c.DATA_FIRST else (crc, data)) for crc, data in pairs]
at_import = list(messages)
for _ in range(2):
    try:
        wal.WALReader("there is no such directory")
    except wal.WALNotFoundError:
        pass
print(json.dumps({
    "name": wal.crc_backend(),
    "values": values,
    "logged_at_import": at_import,
    "logged": messages,
    "warnings": [str(w.message) for w in caught if "crc" in str(w.message)],
}))
"""

NO_CRC32C = ("crc32c",)
NO_GOOGLE = ("google_crc32c",)
NO_C_IN_GOOGLE = ("google_crc32c.cext", "google_crc32c._crc32c")
NO_C_IN_CRCMOD = ("crcmod._crcfunext",)


# The C part of each implementation.
C_PARTS = {"crc32c": "crc32c._crc32c", "google-crc32c": "google_crc32c._crc32c", "crcmod": "crcmod._crcfunext"}

MISSING = [
    pytest.param((), next(iter(_crc32c.BACKENDS)), id="none"),
    pytest.param(NO_CRC32C, "google-crc32c", id="crc32c"),
    pytest.param(NO_CRC32C + NO_GOOGLE, "crcmod", id="crc32c-google"),
    pytest.param(NO_CRC32C + NO_C_IN_GOOGLE, "crcmod", id="crc32c-google's-C-part"),
    pytest.param(NO_CRC32C + NO_GOOGLE + NO_C_IN_CRCMOD, "crcmod (pure Python)", id="crc32c-google-crcmod's-C-part"),
    pytest.param(NO_CRC32C + NO_C_IN_GOOGLE + NO_C_IN_CRCMOD, "crcmod (pure Python)", id="all-C-parts"),
]


@functools.cache
def process_without(missing: tuple[str, ...], name: str) -> dict[str, Any]:
    """Let a process without some modules answer; skip if the implementation that it should choose is not there."""
    if name in C_PARTS:
        pytest.importorskip(C_PARTS[name], reason=f"{name} is not installed")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *missing],
        input=json.dumps([(crc, data.hex()) for crc, data in pairs(200, 300, seed=4)]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize(("missing", "name"), MISSING)
def test_what_is_missing_is_passed_over(missing: tuple[str, ...], name: str) -> None:
    """The next implementation takes the place of one that cannot be imported, with equal values."""
    answer = process_without(missing, name)
    assert answer["name"] == name
    assert answer["values"] == [_crc32c.extend(crc, data) for crc, data in pairs(200, 300, seed=4)]


@pytest.mark.parametrize(("missing", "name"), MISSING)
def test_a_log_warns_once_if_there_is_no_c(missing: tuple[str, ...], name: str) -> None:
    """The first log that a slow process opens warns; importing and later logs do not, nor do fast processes."""
    answer = process_without(missing, name)
    assert answer["logged_at_import"] == []
    assert len(answer["logged"]) == name.endswith("(pure Python)")


@pytest.mark.parametrize(("missing", "name"), MISSING)
def test_importing_is_silent(missing: tuple[str, ...], name: str) -> None:
    """An implementation that was tried and not taken does not warn the application through the library."""
    assert process_without(missing, name)["warnings"] == []
