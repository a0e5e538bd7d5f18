"""The worked example in the format's documentation is what the library writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FORMAT = Path(__file__).parent.parent / "docs" / "format.md"


def test_the_hex_dump_is_what_the_program_beside_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running the documented program gives the documented bytes, and nothing but zeros between them."""
    example = FORMAT.read_text().split("## Worked example")[1]
    program = re.search(r"```python\n(.*?)```", example, re.DOTALL)
    dump = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ){7}[0-9a-f]{2})   ", example, re.MULTILINE)
    assert program
    monkeypatch.chdir(tmp_path)

    exec(program[1], {})

    (segment,) = Path("example").iterdir()
    data = segment.read_bytes()
    documented = bytearray(len(data))
    for offset, row in dump:
        documented[int(offset, 16) : int(offset, 16) + 8] = bytes.fromhex(row)
    assert segment.name in example
    assert f"{len(data):,} bytes" in example
    assert data == documented
