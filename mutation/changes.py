"""
Which changes are made: one at a time, small, and each one a bug that a tired person might write.

A comparison takes a neighbouring operator, a sum becomes a difference, a number is one off, a condition is turned
round or loses a part, a call is left out, a value becomes ``None``. Annotations, decorators, and texts of messages
are left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}


class Change(NamedTuple):
    """The bytes from ``start`` to ``end`` of a module's source give way to ``new``."""

    module: str
    start: int
    end: int
    new: str


class Source:
    """A module's text, with the places of its nodes."""

    def __init__(self, name: str, text: bytes) -> None:
        self.name = name
        self.text = text
        self.tree = ast.parse(text)
        self._lines = [0]
        for line in text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def line(self, offset: int) -> int:
        """The number of the line with this byte."""
        return self.text.count(b"\n", 0, offset) + 1

    def changed(self, change: Change) -> bytes:
        return self.text[: change.start] + change.new.encode() + self.text[change.end :]

    def changes(self) -> list[Change]:
        """Every change, each one once, that leaves something that can be parsed."""
        found: dict[Change, None] = {}
        for function in ast.walk(self.tree):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    for start, end, new in self._changes_of(node):
                        found[Change(self.name, start, end, new)] = None
        kept = self._kept_as_they_are()
        return [
            change
            for change in found
            if not any(start <= change.start and change.end <= end for start, end in kept)
            and self.text[change.start : change.end].decode().strip() != change.new.strip()
            and _can_be_parsed(self.changed(change))
        ]

    def _kept_as_they_are(self) -> list[tuple[int, int]]:
        kept: list[ast.expr | ast.arg] = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                kept += [argument.annotation for argument in arguments if argument.annotation is not None]
                kept += [*node.decorator_list, *([] if node.returns is None else [node.returns])]
            elif isinstance(node, ast.AnnAssign):
                kept.append(node.annotation)
            elif isinstance(node, ast.JoinedStr):
                kept.append(node)
        return [self._span(node) for node in kept]

    def _span(self, node: ast.expr | ast.stmt | ast.arg) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._lines[node.lineno - 1] + node.col_offset,
            self._lines[node.end_lineno - 1] + node.end_col_offset,
        )

    def _text(self, node: ast.expr) -> str:
        start, end = self._span(node)
        return self.text[start:end].decode()

    def _changes_of(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        match node:
            case ast.Compare():
                for left, operator, right in zip(
                    [node.left, *node.comparators], node.ops, node.comparators, strict=False
                ):
                    for new in COMPARISONS[type(operator)]:
                        yield self._span(left)[1], self._span(right)[0], f" {new} "
            case ast.BinOp() if type(node.op) in OPERATORS:
                old, new = OPERATORS[type(node.op)]
                yield from self._between(node.left, node.right, old, new)
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                if len(node.values) == 2:
                    yield from self._between(node.values[0], node.values[1], old, new)
                yield *self._span(node), self._text(node.values[0])
            case ast.UnaryOp(op=ast.Not()):
                yield *self._span(node), self._text(node.operand)
            case ast.Constant(value=bool()):
                yield *self._span(node), str(not node.value)
            case ast.Constant(value=int(value)):
                yield *self._span(node), str(value + 1)
                if value:
                    yield *self._span(node), str(value - 1)
            case ast.Break():
                yield *self._span(node), "continue"
            case ast.Continue():
                yield *self._span(node), "break"
            case ast.Expr(value=ast.Call()) | ast.AugAssign():
                yield *self._span(node), "pass"
            case ast.Assign() if not isinstance(node.value, ast.Lambda):
                yield *self._span(node.value), "None"
            case ast.If():
                yield *self._span(node.test), f"not ({self._text(node.test)})"
            case ast.Return(value=ast.expr() as value):
                yield *self._span(value), "None"

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[tuple[int, int, str]]:
        start, end = self._span(left)[1], self._span(right)[0]
        text = self.text[start:end].decode()
        if text.strip(" ()\n") == old:
            yield start, end, text.replace(old, new)


def _can_be_parsed(text: bytes) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True
