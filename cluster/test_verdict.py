# SPDX-License-Identifier: Apache-2.0
"""What the proofs look for would be found."""

from __future__ import annotations

from typing import Any

import pytest

from wal import Entry

from .work import verdict

SAVED = [Entry(index, b"%d" % (index * 2)) for index in range(1, 6)]
"""Every second save was refused."""
ACKNOWLEDGED = [(entry.index, entry.data) for entry in SAVED[:4]]


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        pytest.param(SAVED, None, id="all is there, and one more"),
        pytest.param(SAVED[:4], None, id="all that was acknowledged is there"),
        pytest.param(SAVED[:3], "acknowledged saves lost", id="the last one is lost"),
        pytest.param([*SAVED[:3], Entry(4, b"9")], "acknowledged saves lost", id="another one is in its place"),
        pytest.param([*SAVED, Entry(6, b"10")], "saves doubled", id="one is there twice"),
        pytest.param([*SAVED, Entry(6, b"9")], "saves out of order", id="one came later than the one behind it"),
        pytest.param([*SAVED, Entry(6, b"11")], "saves that nobody made", id="nobody made one"),
        pytest.param([*SAVED[:4], Entry(6, b"10")], "holes", id="an index is missing"),
        pytest.param(SAVED[1:], "holes", id="the first index is missing"),
    ],
)
def test_it_is_found(entries: list[Any], what: str | None) -> None:
    """Each kind of fault, alone, in a log that is right otherwise."""
    found = {name: number for name, number in verdict(ACKNOWLEDGED, 10, entries).items() if number}

    assert found.pop("acknowledged saves") == 4
    assert what in found if what else not found
