"""The small typed language of `--where`: comparisons of the table's columns, joined by `and`, `or` and `not`.

A filter comes from a command line or a service, so it is neither Python nor SQL, and nothing in it is called. It is
split into the few words that the language has, parsed by rule-engine, and evaluated column by column: the time is that
of a few passes over the table, whatever the text says. A missing value is unknown: neither above 60 nor not above 60.
"""

import difflib
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from meddiff_core.errors import ConfigurationError
from meddiff_core.release.bounded import one_line

LONGEST = 1000
"""Characters of a filter."""
MOST_WORDS = 300
"""Words of a filter, signs included."""
WORDS = ("and", "or", "not", "in", "true", "false", "null")
"""What no column can be called in a filter."""
MOST_LISTED = 12
"""Columns or categories that a message lists."""
LANGUAGE = (
    "a filter compares columns with numbers or words by == != < <= > >= and `in [...]`, joined by and, or, not and "
    "brackets; `null` is a missing value"
)
_WORD = re.compile(
    r"""(?P<text>'[^'\\\n]*'|"[^"\\\n]*")
    |(?P<number>\d{1,20}(?:\.\d{0,20})?(?:[eE][+-]?\d{1,2})?(?![\w.]))
    |(?P<name>[^\W\d]\w*)
    |(?P<sign>[=!<>]=|[<>()\[\],+*/-])""",
    re.VERBOSE,
)
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "tdiv": operator.truediv,
}
WRITTEN = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "add": "+", "sub": "-", "mul": "*",
           "tdiv": "/"}  # fmt: skip
NUMBER, TEXT, TRUTH, MISSING = "a number", "a word", "a truth", "null"


def select_rows(table: pd.DataFrame, text: str) -> list[int]:
    """Rows of a table for which a filter is true, in their order.

    Raises:
        ConfigurationError: the filter is none of this language, names a column that the table lacks, compares numbers
            with words, or keeps no row.
    """
    names = filter_names(map(str, table.columns))
    words = list(_split(text, names))
    used = [name for name, column in names.items() if ("column", name) in words]
    symbols = {name: f"c{place}" for place, name in enumerate(used)}
    tree = _parse(" ".join(symbols.get(word, word) if kind == "column" else word for kind, word in words), text)
    kept = _evaluate(tree, {symbols[name]: _Operand(name, _known(table[names[name]])) for name in used})
    if kept.kind != TRUTH:
        raise ConfigurationError(f"--where: must be true or false of a volume, {kept.text} is {kept.kind}")
    truths = kept.value.fillna(False) if isinstance(kept.value, pd.Series) else pd.Series([kept.value] * len(table))
    if not truths.any():
        columns = [names[name] for name in used] or [str(name) for name in table.columns]
        known = "; ".join(_range(table[column]) for column in columns[:MOST_LISTED])
        raise ConfigurationError(f"--where: keeps none of {len(table)} volumes. In the table: {known}")
    return [row for row, truth in enumerate(truths.tolist()) if truth]


def filter_names(columns: Iterable[str]) -> dict[str, str]:
    """Column by its name in a filter: its own where that is one word, else one with `_` and, if taken, a number."""
    wanted = list(columns)
    names: dict[str, str] = {}
    for column in sorted(wanted, key=lambda column: _as_word(column) != column):  # stable: own names come first
        word = _as_word(column)
        free = (name for number in range(1, len(wanted) + 2) if (name := f"{word}_{number}" if number > 1 else word)
                not in names and name not in WORDS)  # fmt: skip
        names[next(free)] = column
    places = {column: place for place, column in enumerate(wanted)}
    return dict(sorted(names.items(), key=lambda item: places[item[1]]))


def explain_names(columns: Iterable[str]) -> str:
    """The columns as a filter writes them, for a message."""
    names = filter_names(columns)
    listed = [name if name == column else f"{name} (for {column!r})" for name, column in names.items()]
    more = f" and {len(listed) - 2 * MOST_LISTED} more" if len(listed) > 2 * MOST_LISTED else ""
    return one_line(", ".join(listed[: 2 * MOST_LISTED]) + more)


def _as_word(column: str) -> str:
    word = re.sub(r"\W", "_", unicodedata.normalize("NFC", column))
    return word if re.match(r"[^\W\d]", word) else f"_{word}"


def _split(text: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Kind and text of each word: a text, number or sign, a word of the language, or the name of a column."""
    if len(text) > LONGEST:
        raise ConfigurationError(f"--where: must have at most {LONGEST} characters, has {len(text)}")
    rest = unicodedata.normalize("NFC", text).strip()
    for _ in range(MOST_WORDS):
        if not rest:
            return
        if (found := _WORD.match(rest)) is None:
            hint = "to compare is ==" if rest.startswith("=") else LANGUAGE
            raise ConfigurationError(f"--where: cannot be read from {_quoted(rest)} on; {hint}")
        kind, word, rest = str(found.lastgroup), found.group(), rest[found.end() :].lstrip()
        yield _named(word, names) if kind == "name" else (kind, word)
    if rest:
        raise ConfigurationError(f"--where: must have at most {MOST_WORDS} words and signs, has more")


def _named(word: str, names: Mapping[str, str]) -> tuple[str, str]:
    if word in WORDS:
        return "word", word
    if word in names:
        return "column", word
    near = difflib.get_close_matches(word.casefold(), [*names, *WORDS], n=1)
    meant = f", perhaps {near[0]}" if near else ""
    raise ConfigurationError(
        f"--where: must name columns of the table, {one_line(word)} is none{one_line(meant)}; "
        f"they are {explain_names(names.values())}"
    )


def _parse(spelt: str, text: str) -> Any:
    """The tree of a filter. rule-engine sees c0, c1, ... for columns, and no word that is not of the language."""
    import rule_engine

    context = rule_engine.Context(type_resolver=lambda name: rule_engine.DataType.UNDEFINED)
    try:
        return rule_engine.Rule(spelt, context=context).statement.expression
    except (rule_engine.EngineError, ArithmeticError, RecursionError, ValueError, TypeError, AttributeError) as error:
        chained = re.search(r"[<>]=?[^<>=!]*[<>]", text)
        hint = "a range is `20 < age and age < 30`" if chained else LANGUAGE
        raise ConfigurationError(f"--where: cannot be read: {_quoted(text)}; {hint}") from error


@dataclass(frozen=True)
class _Operand:
    """A column, a literal, or what was made from them."""

    text: str
    value: Any
    """A series in which missing values are NA, or one value."""

    @property
    def kind(self) -> str:
        """What it holds, in a word."""
        if isinstance(self.value, pd.Series):
            truth, number = (check(self.value.dtype) for check in (is_bool_dtype, is_numeric_dtype))
            return TRUTH if truth else NUMBER if number else TEXT
        if self.value is None:
            return MISSING
        return TRUTH if isinstance(self.value, bool) else TEXT if isinstance(self.value, str) else NUMBER


def _known(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column in which every missing value is NA, so that a comparison with it is neither true nor false."""
    kind = column.dtype
    if is_bool_dtype(kind):
        return column.astype("boolean")
    if is_numeric_dtype(kind):
        wider = pd.Float64Dtype() if kind.kind == "f" else pd.UInt64Dtype() if kind.kind == "u" else pd.Int64Dtype()
        return column.astype(wider)
    words = column.astype(object).where(column.notna(), None)
    return words.map(lambda word: word if word is None else unicodedata.normalize("NFC", str(word))).astype("string")


def _evaluate(node: Any, columns: Mapping[str, _Operand]) -> _Operand:
    """The value of a tree. What is not named here is not part of the language."""
    match type(node).__name__:
        case "SymbolExpression":
            return columns[node.name]
        case "FloatExpression" | "StringExpression" | "BooleanExpression" | "NullExpression":
            return _literal(node)
        case "UnaryExpression":
            return _unary(node.type, _evaluate(node.right, columns))
        case "LogicExpression":
            return _logic(node.type, _evaluate(node.left, columns), _evaluate(node.right, columns))
        case "ComparisonExpression" | "ArithmeticComparisonExpression":
            return _compare(node.type, _evaluate(node.left, columns), _evaluate(node.right, columns))
        case "ArithmeticExpression" | "AddExpression" | "SubtractExpression":
            return _calculate(node.type, _evaluate(node.left, columns), _evaluate(node.right, columns))
        case "ContainsExpression" if type(node.container).__name__ == "ArrayExpression":
            member = _evaluate(node.member, columns)
            equal = [_compare("eq", member, _evaluate(one, columns)) for one in node.container.value]
            return reduce(lambda one, other: _logic("or", one, other), equal, _Operand("in", False))
    raise ConfigurationError(f"--where: is beyond the language; {LANGUAGE}")


def _literal(node: Any) -> _Operand:
    value = node.value
    if isinstance(value, Decimal):
        value = int(value) if value == value.to_integral_value() and abs(value) < 1 << 63 else float(value)
    return _Operand(repr(value) if value is not None else MISSING, value)


def _unary(sign: str, right: _Operand) -> _Operand:
    if sign == "not":
        _need(right, TRUTH, "not")
        return _Operand(f"not {right.text}", ~right.value if isinstance(right.value, pd.Series) else not right.value)
    _need(right, NUMBER, "-")
    return _Operand(f"-{right.text}", -_decimal(right.value))


def _logic(sign: str, left: _Operand, right: _Operand) -> _Operand:
    for one in (left, right):
        _need(one, TRUTH, sign)
    function = operator.and_ if sign == "and" else operator.or_
    return _Operand(f"{left.text} {sign} {right.text}", function(left.value, right.value))


def _compare(sign: str, left: _Operand, right: _Operand) -> _Operand:
    text = f"{left.text} {WRITTEN[sign]} {right.text}"
    if MISSING in (left.kind, right.kind):
        value = left.value if right.kind == MISSING else right.value
        missing = value.isna() if isinstance(value, pd.Series) else value is None
        if sign not in ("eq", "ne"):
            raise ConfigurationError(f"--where: null is only equal or unequal, got {_quoted(text)}")
        missing = missing.astype("boolean") if isinstance(missing, pd.Series) else missing
        return _Operand(text, missing if sign == "eq" else missing ^ True)
    if left.kind != right.kind:
        raise ConfigurationError(
            f"--where: must compare like with like: {one_line(left.text)} is {left.kind}, "
            f"{one_line(right.text)} is {right.kind}"
        )
    truth = _SIGNS[sign](left.value, right.value)
    return _Operand(text, truth.astype("boolean") if isinstance(truth, pd.Series) else truth)


def _calculate(sign: str, left: _Operand, right: _Operand) -> _Operand:
    for one in (left, right):
        _need(one, NUMBER, WRITTEN[sign])
    text = f"{left.text} {WRITTEN[sign]} {right.text}"
    try:
        return _Operand(text, _SIGNS[sign](_decimal(left.value), _decimal(right.value)))
    except ArithmeticError as error:
        raise ConfigurationError(f"--where: {_quoted(text)} is no number") from error


def _need(one: _Operand, kind: str, sign: str) -> None:
    if one.kind != kind:
        raise ConfigurationError(f"--where: {sign} takes {kind}, {one_line(one.text)} is {one.kind}")


def _decimal(value: Any) -> Any:
    return value.astype("Float64") if isinstance(value, pd.Series) else float(value)


def _range(column: "pd.Series[Any]") -> str:
    """What a column holds, in a few words."""
    known, missing = _known(column).dropna(), int(column.isna().sum())
    if known.empty:
        said = "nothing known"
    elif is_bool_dtype(known.dtype) or not is_numeric_dtype(known.dtype):
        words = known.map(lambda value: str(value).lower() if isinstance(value, bool | np.bool_) else repr(value))
        counts = words.value_counts()
        said = ", ".join(f"{word} ({count})" for word, count in counts.head(MOST_LISTED).items())
        said = said if len(counts) <= MOST_LISTED else f"{len(counts)} different words, such as {counts.index[0]}"
    else:
        said = f"{known.min():.12g} to {known.max():.12g}"
    unknown = f" ({missing} missing)" if missing else ""
    return one_line(f"{column.name}: {said}{unknown}")


def _quoted(text: str) -> str:
    return one_line(repr(text[:80]))
