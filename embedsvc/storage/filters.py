"""A user's SQL filter, made fit for the store.

Built-in fields are columns and pass through. ``metadata.KEY`` (also ``metadata."a key".deeper``) lives in a JSON
column, where one key may hold numbers in one document and text in the next; it is rewritten to a typed extraction
that yields NULL where the type does not fit, never an error in mid-search. The type is that of the other operand. A
list equals each value that is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from embedsvc.errors import BadFilter, UsageError

if TYPE_CHECKING:
    from sqlglot import exp

FIELDS = (
    "id",
    "document_id",
    "document_hash",
    "uri",
    "title",
    "ordinal",
    "start",
    "end",
    "tokens",
    "page",
    "heading",
    "text",
)
"""The built-in fields that a filter may name."""
_MOST = 10_000
"""Characters of a filter: parsing and evaluating go by what it says, and 60,000 took a second of a core. Texts in
quotes cost next to nothing, so that a list of thousands of ids may be sent."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


_CHANGING = {
    "now": "now",
    "today": "today",
    "current_timestamp": "current_timestamp",
    "current_date": "current_date",
    "current_time": "current_time",
    "localtimestamp": "localtimestamp",
    "localtime": "localtime",
    "rand": r"rand(om)?",
    "uuid": "uuid",
}
"""Functions whose value is not the same each time, as the parser calls them, and as they may be written."""


def compile_filter(sql: str) -> str:
    """``sql`` (a condition, as after WHERE) as the store runs it.

    Raises:
        BadFilter: not one SQL condition, or an unknown field, and the message points at the spot; or too long.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import ParseError, SqlglotError, TokenError

    if len(sql) > _MOST and (length := len(_QUOTED.sub("", sql))) > _MOST:
        raise BadFilter(
            f"Bad filter: it has {length:,} characters beside texts in quotes, and {_MOST:,} are allowed. Put values "
            f"of one field into a list, FIELD IN (…), or ask several times with fewer conditions.\n  {sql[:60]} …"
        )
    try:
        statements = sqlglot.parse(sql)
    except ParseError as error:
        detail = error.errors[0] if error.errors else {}
        # sqlglot gives the 1-based column of the last character of the offending token.
        spot = max(0, int(detail.get("col") or 1) - len(str(detail.get("highlight") or "")))
        problem = str(detail.get("description") or "not valid SQL")
        if problem.startswith("Required keyword"):
            problem = "something is missing after this"
        elif problem.startswith("Invalid expression"):
            problem = "this is not expected here"
        problem = problem.partition(" but got ")[0]  # what follows are the parser's own names
        raise BadFilter(_pointed(sql, spot, problem)) from None
    except RecursionError:
        raise BadFilter(_pointed(sql, 0, "nested too deep; write it with fewer parentheses or NOTs")) from None
    except TokenError:
        problem = "a quote or a comment is not closed, or a sign is none of SQL's"
        raise BadFilter(_pointed(sql, len(sql), problem)) from None
    except (SqlglotError, ValueError) as error:
        raise BadFilter(_pointed(sql, len(sql), str(error).splitlines()[0])) from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Expression):
        raise BadFilter(_pointed(sql, 0, "give exactly one condition, as after WHERE"))
    if not isinstance(statements[0], exp.Condition):
        raise BadFilter(_pointed(sql, 0, "this is not a condition that is true or false for a passage"))
    _refuse_parts(statements[0], sql)
    replacements = []
    for column in statements[0].find_all(exp.Column):
        parts = column.parts
        first, last = parts[0].meta.get("start"), parts[-1].meta.get("end")
        if first is None or last is None:
            continue
        name = parts[0].name.lower()
        if name == "metadata":
            if len(parts) > 1:
                # The end of a quoted key does not count its closing quote.
                last += sql[last + 1 : last + 2] == '"' and parts[-1].args.get("quoted", False)
                replacements.append((first, last + 1, _extraction([part.name for part in parts[1:]], column)))
        elif name not in FIELDS and parts[0].args.get("quoted", False):
            raise BadFilter(
                _pointed(sql, first, f"text stands in single quotes, '{parts[0].name}'; double ones name a field")
            )
        elif name not in FIELDS:
            hint = f"unknown field {parts[0].name!r}; built-in fields are {', '.join(FIELDS)}, and an input's own "
            raise BadFilter(_pointed(sql, first, hint + f"fields are written metadata.{parts[0].name}"))
        else:
            # Lance wants back-quotes around names that are SQL words, such as end.
            start = first - (sql[first - 1 : first] == '"' and parts[0].args.get("quoted", False))
            stop = last + 1 + (sql[last + 1 : last + 2] == '"' and parts[0].args.get("quoted", False))
            replacements.append((start, stop, f"`{name}`"))
    for start, stop, text in sorted(replacements, reverse=True):
        sql = sql[:start] + text + sql[stop:]
    return sql


_PATH = re.compile(r"metadata((?:\.(?:\w+|\"[^\"]+\"))+)")
_KEY = re.compile(r"\w+|\"[^\"]+\"")


def metadata_keys(field: str) -> tuple[str, ...]:
    """The keys, outermost first, that lead to ``field``: ``metadata.KEY``, as a filter names it.

    Raises:
        UsageError: it is no such field.
    """
    path = _PATH.fullmatch(field)
    if path is None:
        raise UsageError(
            f"{field!r} is no field of an input's own. Write metadata.KEY, the key in double quotes if it is no word."
        )
    return tuple(key.strip('"') for key in _KEY.findall(path[1]))


def named_keys(sql: str) -> list[tuple[str, ...]]:
    """The keys, outermost first, of each field of an input's own that ``sql``, a good filter, names; each once."""
    import sqlglot
    from sqlglot import exp

    columns = [column.parts for column in sqlglot.parse_one(sql).find_all(exp.Column)]
    found = [tuple(part.name for part in parts[1:]) for parts in columns if parts[0].name.lower() == "metadata"]
    return list(dict.fromkeys(keys for keys in found if keys))


def field_of(keys: Sequence[str]) -> str:
    """The field that these keys lead to, as a filter names it."""
    return "metadata." + ".".join(key if key.isidentifier() else '"' + key.replace('"', '""') + '"' for key in keys)


def _refuse_parts(condition: exp.Expression, sql: str) -> None:
    """Raises BadFilter for what is SQL, and no condition on one passage; of some of it the store does not say so, but
    breaks."""
    from sqlglot import exp

    for kinds, what in (
        ((exp.Placeholder, exp.Parameter), "a placeholder has no value here; write the value itself"),
        ((exp.AggFunc, exp.Window), "a filter looks at one passage; a function over several cannot be used in it"),
        ((exp.Query,), "a query cannot be used in a filter; write its result"),
    ):
        for part in condition.find_all(*kinds):
            near = part.find(exp.Identifier) or (part.parent and part.parent.find(exp.Identifier))
            raise BadFilter(_pointed(sql, near.meta.get("start", 0) if near else 0, what))
    for function in condition.find_all(exp.Func):
        name = (function.name if isinstance(function, exp.Anonymous) else function.sql_name()).lower()
        if name in _CHANGING:
            at = re.search(_CHANGING[name], sql, re.IGNORECASE)
            what = "it gives another value each time, and what passes a filter is kept; write the value itself"
            raise BadFilter(_pointed(sql, at.start() if at else 0, what))


_LITERAL = re.compile(r"Received literal \w+\((?P<value>.*)\) and could not convert to literal of type '(?P<type>\w+)'")
_HOLDS = {
    "Int32": "a field of whole numbers (of 32 bits)",
    "Int64": "a field of whole numbers",
    "Utf8": "a field of text, which stands in single quotes",
    "LargeBinary": "all of an input's own fields; name one: metadata.KEY",
}
_UNSUPPORTED = re.compile(r"Expression '(?P<part>.*)' is not supported SQL")
_PREFIXES = re.compile(
    r"(?:Error optimizing sql filter: .* \(|Error resolving filter expression .*: |Error parsing \w+: "
    r"|Error applying filter expression to batch: |\w+ error: |LanceError\(\w+\): |Error during planning: "
    r"|Invalid user input: |Query Execution error: )",
    re.DOTALL,
)
_UNKNOWN_TYPE = re.compile(r"Unsupported data type: .*?Ident \{ value: \"(?P<name>[^\"]*)\"")
_ADVICE = re.compile(r"\.? No function matches|\.*\s+This issue was likely caused")
_OWN_TYPES = {
    "Int32": "whole number",
    "Int64": "whole number",
    "Float64": "number",
    "Utf8": "text",
    "Boolean": "true or false",
    "LargeBinary": "metadata",
}
_TYPES = re.compile(rf"\b({'|'.join(_OWN_TYPES)})\b")


def problem_of(said: str) -> str:
    """What the store found wrong with a filter, from what its libraries ``said``."""
    if literal := _LITERAL.search(said):
        return f"{literal['value']} is compared with {_HOLDS.get(literal['type'], literal['type'])}"
    if unsupported := _UNSUPPORTED.search(said):
        return f"{unsupported['part'].replace('`', '')} cannot be used in a filter"
    if "does not return a boolean" in said:
        return "this is not a condition that is true or false for a passage"
    if "not implemented" in said:
        return "a function in it cannot be used in a filter"
    if unknown := _UNKNOWN_TYPE.search(said):
        return f"there is no type {unknown['name']}"
    last = _ADVICE.split(_PREFIXES.split(said)[-1])[0]
    own = _TYPES.sub(lambda name: _OWN_TYPES[name[0]], " ".join(last.split()))
    return own.removesuffix(")").rstrip(".") if own.count(")") > own.count("(") else own.rstrip(".")


def _pointed(sql: str, spot: int, problem: str) -> str:
    line = sql.replace("\n", " ").replace("\t", " ")
    return f"Bad filter: {problem}\n  {line}\n  {' ' * min(spot, len(line))}^"


def _extraction(keys: Sequence[str], column: exp.Expression) -> str:
    path = "$" + "".join("." + json.dumps(key, ensure_ascii=False) for key in keys)
    value = "NULLIF(json_extract(metadata, '{}'), 'null')".format(path.replace("'", "''"))
    for pattern in _element_patterns(column):
        value = "regexp_replace({}, '{}', '\\1')".format(value, pattern.replace("'", "''"))
    return _wanted_type(column)(value)


_LIST = r'^\[(?:(?:"(?:[^"\\]|\\.)*"|[^",\[\]{{}}]+),)*({})[,\]].*$'
"""A list, as JSON, of texts, numbers, true and false, that has a certain element, or one of several (with ``|``)."""
_PATTERN, _PATTERNS = 20_000, 20
"""Bytes of elements in one pattern, and how many patterns a field is held against: the store makes none of ten times as
many bytes, and no more than 40 of them."""


def _element_patterns(column: exp.Expression) -> list[str]:
    """Patterns of lists that have one of the values that ``column`` is asked to equal: the value, in place of its list,
    is then compared as if it stood there alone."""
    parts: list[list[str]] = []
    room = 0
    for element in _equalled(column):
        size = len(element.encode(errors="replace"))
        if size > room:
            parts.append([])
            room = _PATTERN
        parts[-1].append(element)
        room -= size
        if len(parts) > _PATTERNS or size > _PATTERN:
            raise BadFilter(
                f"Bad filter: a metadata field is compared with values of more than {_PATTERN * _PATTERNS:,} bytes "
                f"together, or with one of more than {_PATTERN:,}. Ask several times with fewer of them."
            )
    return [_LIST.format("|".join(part)) for part in parts]


def _equalled(column: exp.Expression) -> Iterator[str]:
    """The values that ``column`` is compared with, for equality, as patterns of how JSON writes them."""
    from sqlglot import exp

    node: exp.Expression = column
    while isinstance(node.parent, exp.Paren):
        node = node.parent
    if not isinstance(node.parent, exp.EQ | exp.NEQ | exp.In):
        return
    for value in _operands(node.parent):
        sign = 1
        while isinstance(value, exp.Neg | exp.Paren):
            sign *= -1 if isinstance(value, exp.Neg) else 1
            value = value.this
        if isinstance(value, exp.Boolean):
            yield str(value.this).lower()
        elif isinstance(value, exp.Literal) and value.is_string:
            yield re.escape(json.dumps(value.this, ensure_ascii=False))
        elif isinstance(value, exp.Literal):
            number = value.this if value.this.isdigit() else repr(float(value.this)).removesuffix(".0")
            yield re.escape(number if sign > 0 else f"-{number}") + r"(?:\.0)?"


def _as_number(value: str) -> str:
    return f"TRY_CAST({value} AS DOUBLE)"


def _as_boolean(value: str) -> str:
    return f"TRY_CAST({value} AS BOOLEAN)"


def _as_text(value: str) -> str:
    # JSON text comes back as it is written, in quotes and with escapes. An escaped backslash waits as chr(1), which
    # JSON text never holds, so that it does not make an escape of what follows it.
    text = f"regexp_replace({value}, '^\"|\"$', '', 'g')"
    for escape, meant in (
        (r"\\", "chr(1)"),
        (r"\"", "chr(34)"),
        (r"\n", "chr(10)"),
        (r"\t", "chr(9)"),
        (r"\r", "chr(13)"),
    ):
        text = f"replace({text}, '{escape}', {meant})"
    return rf"replace({text}, chr(1), '\')"


def _as_is(value: str) -> str:
    return value


def _wanted_type(column: exp.Expression) -> Callable[[str], str]:
    from sqlglot import exp

    node: exp.Expression = column
    while isinstance(node.parent, exp.Paren | exp.Neg | exp.Add | exp.Sub | exp.Mul | exp.Div | exp.Mod):
        if not isinstance(node.parent, exp.Paren):
            return _as_number
        node = node.parent
    parent = node.parent
    if parent is None or isinstance(parent, exp.And | exp.Or | exp.Not):
        return _as_boolean
    if isinstance(parent, exp.Is):
        return _as_boolean if isinstance(parent.expression, exp.Boolean) else _as_is
    if isinstance(parent, exp.EQ | exp.NEQ | exp.GT | exp.GTE | exp.LT | exp.LTE | exp.In | exp.Between):
        for other in _operands(parent):
            if other is not node:
                while isinstance(other, exp.Neg | exp.Paren):
                    other = other.this
                if isinstance(other, exp.Boolean):
                    return _as_boolean
                if isinstance(other, exp.Literal):
                    return _as_text if other.is_string else _as_number
    return _as_text


def _operands(node: exp.Expression) -> Iterator[exp.Expression]:
    for value in node.args.values():
        if isinstance(value, list):
            yield from value
        elif value is not None and not isinstance(value, bool | str):
            yield value
