# SPDX-License-Identifier: Apache-2.0
"""
Makes the compiled wheel, if it is asked to: ``WAL_BUILD_COMPILED=1 pip install .``.

Without that variable the wheel is pure Python, for every platform. With it, mypyc turns each ``*_compiled.py`` into an
extension module, and the wheel is for this platform and this Python alone. It takes a C compiler, and Python's headers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MYPYC = ["mypy[mypyc]>=2.4"]
"""What the compiler comes from."""

RUNTIME = ["librt>=0.16", "mypy-extensions>=1.1"]
"""What compiled modules need besides, wherever they run."""


class CompiledBuildHook(BuildHookInterface[BuilderConfig]):
    """Compiles the modules that are written for it, if it is asked to."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what the build needs besides."""
        return [*MYPYC, *RUNTIME, "setuptools"] if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the compiled modules into the wheel, in the place of their sources."""
        if not self._wanted():
            return
        if version == "editable":
            raise RuntimeError("an editable wal is not compiled; unset WAL_BUILD_COMPILED")
        self._directory = tempfile.mkdtemp()
        source = Path(self.root, "src")
        for extension in compiled(source, Path(self._directory)):
            build_data.setdefault("force_include", {})[str(extension)] = str(extension.relative_to(self._directory))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["dependencies"] += RUNTIME

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what is in the wheel now."""
        if self._wanted():
            shutil.rmtree(self._directory)

    def _wanted(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("WAL_BUILD_COMPILED", "") not in ("", "0")


def compiled(source: Path, into: Path) -> list[Path]:
    """Compile the modules in ``source`` and return the extension modules, which are put below ``into``."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    with chdir(source), tempfile.TemporaryDirectory() as scratch:
        modules = [str(path) for path in sorted(Path("wal").glob("*_compiled.py"))]
        extensions = mypycify(
            ["--strict", "--follow-imports=silent", "--cache-dir", os.devnull, *modules],
            target_dir=scratch,
            group_name="wal._compiled",
            opt_level="3",
        )
        distribution = Distribution({"name": "wal", "packages": ["wal"], "ext_modules": extensions})
        command: Any = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(into), scratch
        distribution.run_command("build_ext")
    return sorted(path for path in into.rglob("*") if path.is_file())
