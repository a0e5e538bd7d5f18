# SPDX-License-Identifier: Apache-2.0
"""
The command line. The program is the interface: nothing in this package is to be imported by others.

Each command has a module with its name. It finds the log, makes one call of the library's public API, and shows what
that returns. What the commands have in common stands below them: what a path may be (``place``), the classes of
records (``classes``), errors and exit codes (``outcome``), the terminal (``terminal``), and how records look
(``rendering``).
"""

from __future__ import annotations

from .app import main

__all__ = ["main"]
