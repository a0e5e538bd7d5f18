"""
Look at the wheel and the source distribution, and at the installed wheel as somebody who has just installed it would.

It is run by the Python of an environment that has the wheel alone, from the root of the source tree.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import wal
import wal.aio
import wal.testing

wheel, sdist = sys.argv[1:]

# ------------------------------------------------------------------------------------------------- what is in it

package = distribution("wal")
tags = re.findall(r"^Tag: (.*)$", package.read_text("WHEEL") or "", re.MULTILINE)
runtime = {re.split(r"[^\w-]", need)[0] for need in package.requires or () if "extra ==" not in need}
names = {str(name) for name in package.files or ()}

assert sys.prefix in wal.__file__, f"this is not the wheel's: {wal.__file__}"
assert tags == ["py3-none-any"], tags
assert runtime == {"crcmod", "portalocker"}, runtime
assert "wal/py.typed" in names
bare = subprocess.run([sys.executable, "-I", "-m", "wal", "--version"], capture_output=True, text=True, check=False)
assert bare.returncode == 5, bare
assert bare.stderr == "wal: the command line needs the extra wal[cli]: pip install 'wal[cli]'\n", bare
assert not wal.__compiled__, "this is the pure wheel"
assert not any("_compiled" in name for name in names), "the pure wheel has what is written for the compiler"
besides = {Path(name).name for name in names if "dist-info" not in name and not name.startswith("wal/")}
assert besides == {"wal"}, f"the wheel has other files than the package and its command: {besides}"
for license_file in ("LICENSE", "NOTICE"):
    assert any(name.endswith(f"licenses/{license_file}") for name in names), f"the wheel lacks {license_file}"

with tarfile.open(sdist) as archive:
    sources = {member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()}
if Path(".git").exists():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout
    tracked = set(listed.splitlines())
    assert sources == tracked | {"PKG-INFO"}, f"not as in the repository: {sorted(sources ^ tracked)}"

# ---------------------------------------------------------------------------------------------- what it says of itself

metadata = package.metadata
classifiers = set(metadata.get_all("Classifier") or ())
description = metadata.json["description"]
for field in ("Summary", "Keywords", "Requires-Python"):
    assert metadata[field], f"the metadata has no {field}"
assert metadata["License-Expression"] == "Apache-2.0"
assert not any(name.startswith("License ::") for name in classifiers), "the licence expression says it"
assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= classifiers
assert metadata["Description-Content-Type"] == "text/markdown"
assert isinstance(description, str)
assert description.startswith("# wal\n")
relative = re.findall(r"\]\((?!https?://)[^)]*\)", description)
assert not relative, f"links that lead nowhere from a package index: {relative}"
assert re.search(rf"^## ({re.escape(package.version)}|Unreleased)$", Path("CHANGELOG.md").read_text(), re.MULTILINE)

# What the extras ask for can be installed here.
for extra in metadata.get_all("Provides-Extra") or ():
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", f"{wheel}[{extra}]"]
    subprocess.run(command, check=True)

# -------------------------------------------------------------------------------------------------- whether it works

with tempfile.TemporaryDirectory() as directory:
    path = Path(directory, "trial")
    with wal.WAL.create(path) as log:
        log.save(wal.CommitState(1), [wal.Entry(1, b"one")])
    recovered = wal.read_wal(path)
    recovered.wal.close()
    assert recovered.entries == [wal.Entry(1, b"one")]

# Without their extras these say what to install.
for module, extra in {"archive": "archive", "cluster": "etcd", "prometheus": "prometheus"}.items():
    program = f"import wal.{module}"
    bare = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert f"wal[{extra}]" in bare.stderr.splitlines()[-1], bare

print(f"The wheel of wal {package.version} is {tags[0]}, needs {' and '.join(sorted(runtime))}, and works.")
