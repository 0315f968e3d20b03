"""Expressions over parameters: ``"x1 + x2 <= 8"``, ``"a * b <= 100"``, ``"booster == 'dart' and depth >= 4"``.

Text is parsed into Python's syntax tree and interpreted by this file over arrays; nothing is ever evaluated as code.
Allowed are numbers, quoted strings, parameter names, ``+ - * / **``, comparisons (also chained), ``in [...]``,
``and or not`` and the functions of ``FUNCTIONS``. An `Expression` is a condition; a `Formula` is a number, such as
``"0.1 + epochs / 81"``, and may choose between numbers: ``"10 if source == 'lab' else 1"``.
"""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .errors import InvalidInput

MAX_LENGTH = 1000  # characters: a syntax tree as deep as the text is long would exhaust the interpreter's stack

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "min": lambda *a: _fold(np.minimum, a),
    "max": lambda *a: _fold(np.maximum, a),
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def _fold(f: Callable[[Any, Any], Any], arguments: tuple[Any, ...]) -> Any:
    result = arguments[0]
    for a in arguments[1:]:
        result = f(result, a)
    return result


class _Parsed:
    """A text over named parameters and its syntax tree, of which ``names`` are the parameters it mentions."""

    def __init__(self, text: str, field: str, kind: str, *, boolean: bool) -> None:
        if not isinstance(text, str) or not text.strip():
            raise InvalidInput(field, kind, text)
        if len(text) > MAX_LENGTH:
            raise InvalidInput(field, f"at most {MAX_LENGTH} characters", f"{len(text)} characters")
        self.text = text.strip()
        self._field = field
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = getattr(error, "offset", None)
            hint = f" (syntax error at character {where})" if where else " (syntax error)"
            raise InvalidInput(field, f"{kind}{hint}", text) from None
        self.names: frozenset[str] = frozenset(self._check(self._tree, boolean=boolean))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Parsed) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def literals(self) -> list[tuple[str, Any]]:
        """(name, literal) wherever a bare name is compared with a literal, so that misspelt choices can be refused."""
        found: list[tuple[str, Any]] = []
        for node in ast.walk(self._tree):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            for left, right in itertools.pairwise(sides):
                for name, other in ((left, right), (right, left)):
                    items = other.elts if isinstance(other, ast.List | ast.Tuple | ast.Set) else [other]
                    if isinstance(name, ast.Name):
                        found += [(name.id, _evaluate(item, {})) for item in items if _is_literal(item)]
        return found

    def _refuse(self, node: ast.AST, expected: str) -> InvalidInput:
        return InvalidInput(self._field, expected, ast.get_source_segment(self.text, node) or self.text)

    def _check(self, node: ast.expr, *, boolean: bool = False) -> set[str]:
        """The names below ``node``, refusing everything outside the language."""
        match node:
            case ast.BoolOp(values=values) if boolean:
                return set().union(*(self._check(v, boolean=True) for v in values))
            case ast.UnaryOp(op=ast.Not(), operand=operand) if boolean:
                return self._check(operand, boolean=True)
            case ast.Compare(left=left, ops=ops, comparators=comparators) if boolean:
                names = self._check(left)
                for op, right in zip(ops, comparators, strict=True):
                    if isinstance(op, ast.In | ast.NotIn):
                        if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                            raise self._refuse(node, "a list after 'in', such as x in ['a', 'b']")
                        if not all(_is_literal(item) for item in right.elts):
                            raise self._refuse(node, "plain numbers or quoted strings inside the list")
                    elif type(op) in _COMPARISONS:
                        names |= self._check(right)
                    else:
                        raise self._refuse(node, "one of <= >= < > == != in")
                return names
            case ast.Name(id=name):
                return {name}
            case _ if boolean:
                raise self._refuse(node, 'a comparison such as "x1 + x2 <= 8"')
            case ast.Constant(value=value) if isinstance(value, int | float | str):
                return set()
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()) if isinstance(self, Formula):
                return self._check(node, boolean=True)
            case ast.IfExp(test=test, body=body, orelse=orelse) if isinstance(self, Formula):
                return self._check(test, boolean=True) | self._check(body) | self._check(orelse)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._check(left) | self._check(right)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self._check(operand)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
                if len(args) > 1 and name not in ("min", "max"):
                    raise self._refuse(node, f"one argument for {name}()")
                return set().union(*(self._check(a) for a in args))
            case _:
                allowed = ", ".join(FUNCTIONS)
                raise self._refuse(node, f"numbers, strings, parameter names, + - * / ** and the functions {allowed}")


class Expression(_Parsed):
    """A condition over named parameters.

    ``names`` are the parameters it mentions, ``equated`` those inside a numeric ``==``. ``holds(values)`` evaluates it
    over arrays of equal length; ``slacks(values)`` gives, for a conjunction of numeric inequalities, how far each is
    satisfied (>= 0: holds), which is what a constrained optimizer needs.
    """

    def __init__(self, text: str, field: str = "expression") -> None:
        super().__init__(text, field, 'a condition such as "x1 + x2 <= 8"', boolean=True)
        self.equated: frozenset[str] = frozenset(
            name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq) for op in node.ops)
            for name in _names(node)
        )
        if not self.names:
            raise InvalidInput(field, "a condition that mentions at least one parameter", text)

    def holds(self, values: Mapping[str, Any]) -> Any:
        """Whether the condition holds, elementwise; comparisons with undefined numbers (NaN) do not hold."""
        with np.errstate(all="ignore"):
            return np.asarray(_evaluate(self._tree, values), dtype=bool)

    def slacks(self, values: Mapping[str, Any]) -> list[Any] | None:
        """Right minus left side of every inequality; None where the condition is not a plain conjunction of them."""
        parts = _inequalities(self._tree)
        if parts is None:
            return None
        with np.errstate(all="ignore"):
            return [
                np.asarray(_evaluate(large, values), float) - np.asarray(_evaluate(small, values), float)
                for small, large in parts
            ]


class Formula(_Parsed):
    """A number over named parameters; conditions in it count as 1 and 0, or choose: ``a if condition else b``."""

    def __init__(self, text: str, field: str = "formula") -> None:
        super().__init__(text, field, 'a formula such as "0.1 + epochs / 81"', boolean=False)

    def values(self, values: Mapping[str, Any]) -> Any:
        """The number, elementwise over arrays of equal length; NaN or infinite where it is not defined."""
        with np.errstate(all="ignore"):
            return _number(_evaluate(self._tree, values))


def _is_literal(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float | str)


def _names(node: ast.AST) -> set[str]:
    called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - called


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(_evaluate(left, values)), _number(_evaluate(right, values)))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~np.asarray(_evaluate(operand, values), dtype=bool)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_evaluate(operand, values))
        case ast.UnaryOp(operand=operand):
            return _evaluate(operand, values)
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name](*(_number(_evaluate(a, values)) for a in args))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition = np.asarray(_evaluate(test, values), dtype=bool)
            return np.where(condition, _number(_evaluate(body, values)), _number(_evaluate(orelse, values)))
        case ast.BoolOp(op=op, values=parts):
            join = np.logical_and if isinstance(op, ast.And) else np.logical_or
            return _fold(join, tuple(np.asarray(_evaluate(p, values), dtype=bool) for p in parts))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            result: Any = np.True_
            for comparison, right in zip(ops, comparators, strict=True):
                result = np.logical_and(result, _compare(comparison, _evaluate(left, values), right, values))
                left = right
            return result
        case _:  # pragma: no cover
            raise AssertionError(f"unchecked node {ast.dump(node)}")


def _compare(op: ast.cmpop, left: Any, right: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(op, ast.In | ast.NotIn):
        assert isinstance(right, ast.List | ast.Tuple | ast.Set)
        inside = _fold(np.logical_or, tuple(np.asarray(left == _evaluate(item, values)) for item in right.elts))
        return inside if isinstance(op, ast.In) else ~inside
    return np.asarray(_COMPARISONS[type(op)](left, _evaluate(right, values)))


def _number(value: Any) -> Any:
    """Floats, so that integer arrays cannot overflow or refuse negative powers."""
    return np.asarray(value, dtype=float)


def _inequalities(node: ast.expr) -> list[tuple[ast.expr, ast.expr]] | None:
    """(smaller side, larger side) of every inequality in a plain conjunction, else None."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        parts = [_inequalities(v) for v in node.values]
        return None if any(p is None for p in parts) else [pair for p in parts if p is not None for pair in p]
    if not isinstance(node, ast.Compare):
        return None
    pairs: list[tuple[ast.expr, ast.expr]] = []
    left = node.left
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.Lt | ast.LtE):
            pairs.append((left, right))
        elif isinstance(op, ast.Gt | ast.GtE):
            pairs.append((right, left))
        else:
            return None
        left = right
    return pairs
