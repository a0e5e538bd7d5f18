"""The sessions in docs/cli.md are what happens, command by command."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from commands import PROGRAM, environment

pytest.importorskip("typer")

DOCUMENT = Path(__file__).parent.parent / "docs" / "cli.md"
HERE = "/srv/shop"
"""Where the sessions in the document are."""


def answer(command: str, here: Path) -> str:
    """Run a command in a shell in which ``wal`` is the program; return all that it writes, in its order."""
    script = f'wal() {{ {shlex.join(PROGRAM)} "$@"; }}\n{command}\n'
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=here,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.replace(str(here), HERE)


def test_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever types the document from top to bottom, Python and shell, sees what it says."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    documented, found = [], []
    for language, block in re.findall(r"```(python|console)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        if language == "python":
            if name := re.match(r"# (\w+\.py)\n", block):
                Path(name[1]).write_text(block)
            exec(block, names)
            continue
        documented.append(block)
        commands = re.findall(r"^\$ (.*)$", block, re.MULTILINE)
        found.append("".join(f"$ {command}\n{answer(command, tmp_path)}" for command in commands))

    assert len(found) >= 5
    assert found == documented


def test_every_command_is_in_the_table() -> None:
    """With the words ``wal`` and its name."""
    from wal._cli.app import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}

    assert set(re.findall(r"^\| `wal (\w+)`", DOCUMENT.read_text(), re.MULTILINE)) == names
