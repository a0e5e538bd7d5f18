# SPDX-License-Identifier: Apache-2.0
"""
CRC-32C (Castagnoli), by the fastest implementation that is installed.

All implementations give equal values; they differ in speed only. Hardware packages reach several GB/s,
``crcmod`` about 0.4 GB/s with its C extension and about 0.01 GB/s where that could not be compiled.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import cast

import crcmod.predefined

from ._events import log_slow_crc

__all__ = ["crc_backend", "extend", "extend_each", "warn_if_slow"]

Extend = Callable[[int, bytes], int]


def _crc32c() -> Extend:
    import crc32c

    def extend(crc: int, data: bytes) -> int:
        return crc32c.crc32c(data, crc)

    return extend


def _google_crc32c() -> Extend:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so if its C part is missing; then it is no faster than crcmod
        from google_crc32c import cext

    return cast(Extend, cext.extend)  # type: ignore[attr-defined]  # it comes from C


def _crcmod() -> Extend:
    continued = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

    def extend(crc: int, data: bytes) -> int:
        return cast(int, continued(data, crc))

    return extend


_CRCMOD = "crcmod" if find_spec("crcmod._crcfunext") else "crcmod (pure Python)"
BACKENDS: dict[str, Callable[[], Extend]] = {
    "crc32c": _crc32c,
    "google-crc32c": _google_crc32c,
    _CRCMOD: _crcmod,
}


def _choose() -> tuple[str, Extend]:
    for name, load in BACKENDS.items():
        try:
            return name, load()
        except ImportError:
            continue
    raise AssertionError("crcmod is a dependency")  # pragma: no cover - the imports above would have failed


_backend, extend = _choose()


def _choose_native() -> tuple[Callable[..., int], bool]:
    if _backend == "crc32c":
        import crc32c

        return crc32c.crc32c, True
    return extend, False


native, DATA_FIRST = _choose_native()
"""The implementation without our wrapper, if it comes from C, and whether it takes the data first."""


def extend_each(crcs: Iterable[int], values: Iterable[bytes]) -> Iterator[int]:
    """Extend each CRC by the data beside it."""
    return map(native, values, crcs) if DATA_FIRST else map(native, crcs, values)


def crc_backend() -> str:
    """Name the CRC-32C implementation in use: ``crc32c``, ``google-crc32c``, ``crcmod`` or ``crcmod (pure Python)``."""
    return _backend


@functools.cache
def warn_if_slow() -> None:
    """Log one warning per process if checksums are computed in pure Python."""
    if _backend.endswith("(pure Python)"):
        log_slow_crc()
