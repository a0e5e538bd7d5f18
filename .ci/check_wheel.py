"""Look at the installed wheel, from outside of the source tree, as somebody who has just installed it would."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import wal

package = distribution("wal")
tags = re.findall(r"^Tag: (.*)$", package.read_text("WHEEL") or "", re.MULTILINE)
runtime = {re.split(r"[^\w-]", need)[0] for need in package.requires or () if "extra ==" not in need}
names = {str(name) for name in package.files or ()}
with tarfile.open(sys.argv[1]) as sdist:
    sources = {name.partition("/")[2] for name in sdist.getnames()}

assert sys.prefix in wal.__file__, f"this is not the wheel's: {wal.__file__}"
assert tags == ["py3-none-any"], tags
assert runtime == {"crcmod", "portalocker"}, runtime
assert "wal/py.typed" in names
bare = subprocess.run([sys.executable, "-I", "-m", "wal", "--version"], capture_output=True, text=True, check=False)
assert bare.returncode == 5, bare
assert bare.stderr == "wal: the command line needs the extra wal[cli]: pip install 'wal[cli]'\n", bare
assert not wal.__compiled__, "this is the pure wheel"
assert not any("_compiled" in name for name in names), "the pure wheel has what is written for the compiler"
assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"wal"}, "the wheel has other files"
for license_file in ("LICENSE", "NOTICE"):
    assert any(name.endswith(f"licenses/{license_file}") for name in names), f"the wheel lacks {license_file}"
missing = {
    "LICENSE",
    "NOTICE",
    "README.md",
    "Makefile",
    "conftest.py",
    "tests/conftest.py",
    "examples/kvstore.py",
} - sources
assert not missing, f"the source distribution lacks {missing}"

with tempfile.TemporaryDirectory() as directory:
    path = Path(directory, "trial")
    with wal.WAL.create(path) as log:
        log.save(wal.CommitState(1), [wal.Entry(1, b"one")])
    recovered = wal.read_wal(path)
    recovered.wal.close()
    assert recovered.entries == [wal.Entry(1, b"one")]

print(f"The wheel of wal {package.version} is {tags[0]}, needs {' and '.join(sorted(runtime))}, and works.")
