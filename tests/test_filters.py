from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedsvc.errors import BadFilter
from embedsvc.records import Chunking, Heading, Passage, make_document
from embedsvc.storage import Store, passage_table
from embedsvc.storage.filters import FIELDS, compile_filter
from tests.test_storage import CONTRACT, DIMENSION

METADATA: dict[str, dict[str, Any]] = {
    "number": {"year": 2011, "tag": "a", "flag": True, "a key": {"deeper": 1.5}, "end": 3},
    "text": {"year": "2011", "tag": "it's", "flag": False, "a key": {"deeper": "x"}, "end": 4},
    "float": {"year": 1999.5, "tag": 'say "hi"', "flag": "true", "author": {"name": "Ann Lee"}},
    "null": {"year": None, "tag": None, "flag": None, "list": [1, 2.0, -3, 0.5, "it's", True, None]},
    "odd": {"year": "n/a", "tag": "", "flag": 1, "Tag": "upper", "list": [["a"], {"a": 1}]},
    "none": {},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("filters") / "c"
    Store.create(folder, CONTRACT, Chunking(), "os")
    encoded = []
    for at, (id, metadata) in enumerate(METADATA.items()):
        document = make_document(
            f"file:///tmp/{id}.md",
            f"first words of {id}. second words of {id}.",
            id=id,
            title=f"About {id}",
            hash=f"hash-{id}",
            page_starts=(0, 20) if id in ("number", "text") else (),
            headings=(Heading(0, 1, "Guide"),) if id == "float" else (),
            metadata=metadata,
        )
        half = document.text.index(".") + 1
        spans = [(0, half), (half + 1, len(document.text))]
        passages = [
            Passage(ordinal, start, end, np.zeros(3 + at, np.int32)) for ordinal, (start, end) in enumerate(spans)
        ]
        encoded.append((document, passages, np.eye(DIMENSION, dtype=np.float32)[:2]))
    return Store.open(folder, "os").replace(passage_table(encoded, DIMENSION), list(METADATA))


def passing(store: Store, sql: str) -> list[str]:
    return [passage.id for passage in store.take(store.matching(sql).tolist())]


def documents(store: Store, sql: str) -> set[str]:
    """Ids of the documents that pass; every passage of a document has its metadata."""
    found = passing(store, sql)
    ids = {id.partition(":")[0] for id in found}
    assert sorted(found) == sorted(f"{id}:{ordinal}" for id in ids for ordinal in (0, 1))
    return ids


EVERY = set(METADATA)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        # a number is asked for: text never passes, and is never an error
        ("metadata.year = 2011", {"number"}),
        ("metadata.year > 1999", {"number", "float"}),
        ("metadata.year >= 1999.5 AND metadata.year < 2011", {"float"}),
        ("metadata.year BETWEEN 1999 AND 2000", {"float"}),
        ("metadata.year IN (2011, 7)", {"number"}),
        ("2011 = metadata.year", {"number"}),
        ("metadata.year + 1 = 2012", {"number"}),
        ("-metadata.year < -2000", {"number"}),
        ("metadata.year <> 2011", {"float"}),
        ("metadata.year > -1", {"number", "float"}),
        # text is asked for
        ("metadata.year = '2011'", {"number", "text"}),
        ("metadata.year = 'n/a'", {"odd"}),
        ("metadata.tag = 'a'", {"number"}),
        ("metadata.tag = 'it''s'", {"text"}),
        ("metadata.tag = 'say \"hi\"'", {"float"}),
        ("metadata.tag = ''", {"odd"}),
        ("metadata.Tag = 'upper'", {"odd"}),
        ("metadata.tag LIKE 'it%'", {"text"}),
        ("metadata.tag IN ('a', 'it''s')", {"number", "text"}),
        ("metadata.tag != 'a'", {"text", "float", "odd"}),
        ("lower(metadata.author.name) = 'ann lee'", {"float"}),
        # truth values
        ("metadata.flag", {"number", "odd"}),
        ("NOT metadata.flag", {"text"}),
        ("metadata.flag = true", {"number", "odd"}),
        ("metadata.flag IS FALSE", {"text"}),
        # presence
        ("metadata.tag IS NULL", {"null", "none"}),
        ("metadata.tag IS NOT NULL", EVERY - {"null", "none"}),
        ("metadata.nowhere = 1", set()),
        ("metadata.nowhere IS NULL", EVERY),
        # a list equals each value that is in it, and no part of one, nor what is deeper in it
        ("metadata.list = 2", {"null"}),
        ("metadata.list IN (7, -3)", {"null"}),
        ("metadata.list = .5", {"null"}),
        ("'it''s' = (metadata.list)", {"null"}),
        ("metadata.list = TRUE", {"null"}),
        ("metadata.list = 3", set()),
        ("metadata.list = 'it'", set()),
        ("metadata.list = '1'", set()),
        ("metadata.list = 'a'", set()),
        ("metadata.list != 'it''s'", {"odd"}),
        ("metadata.list NOT IN ('it''s', 'x')", {"odd"}),
        ("(metadata.list = 2) IS NOT TRUE", EVERY - {"null"}),
        # keys that are not plain words
        ('metadata."a key".deeper = 1.5', {"number"}),
        ("metadata.\"a key\".deeper = 'x'", {"text"}),
        ('metadata."a key"."deeper" > 1 AND metadata.year = 2011', {"number"}),
        ("metadata.end = 4", {"text"}),
        ('metadata."end" = 3', {"number"}),
        ("METADATA.tag = 'a'", {"number"}),
        # built-in fields
        ("document_id = 'number'", {"number"}),
        ("uri LIKE '%/null.md'", {"null"}),
        ("title = 'About odd' OR heading = 'Guide'", {"odd", "float"}),
        ("document_hash = 'hash-none'", {"none"}),
        ("tokens = 4", {"text"}),
        ("TOKENS > 7 OR Title = 'About number'", {"none", "number"}),
        ("heading IS NOT NULL", {"float"}),
        ("1 = 1", EVERY),
        ("(metadata.tag = 'a' OR (metadata.tag = 'it''s')) AND NOT metadata.year = 7", {"number"}),
    ],
)
def test_filters_on_documents(store: Store, sql: str, wanted: set[str]) -> None:
    assert documents(store, sql) == wanted


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("id = 'null:1'", {"null:1"}),
        ("ordinal = 1 AND document_id IN ('odd', 'none')", {"odd:1", "none:1"}),
        ("page = 2", {"number:1", "text:1"}),
        ("text LIKE 'second words of f%'", {"float:1"}),
        ("end = 21 AND start = 0", {"float:0"}),
        ('"start" > 0 AND "end" > 0 AND title = \'About odd\'', {"odd:1"}),
        ("start > 0 AND \"title\"='About odd'", {"odd:1"}),
    ],
)  # fmt: skip
def test_filters_on_passages(store: Store, sql: str, wanted: set[str]) -> None:
    assert set(passing(store, sql)) == wanted


@pytest.mark.parametrize("name", FIELDS)
def test_every_built_in_field_can_be_named(store: Store, name: str) -> None:
    assert len(passing(store, f"{name} IS NULL OR {name} IS NOT NULL")) == 2 * len(METADATA)


def test_rows_come_sorted(store: Store) -> None:
    row_ids = store.matching("ordinal = 1 OR tokens > 4")
    assert row_ids.tolist() == sorted(row_ids.tolist())
    assert len(row_ids) > 5


VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t\r\\\"'"), max_size=8)


@settings(max_examples=30)
@given(st.lists(VALUES, min_size=1, max_size=4, unique=True), st.data())
@example(["a\\", "a", '"', '\\"', "null", "a\nb"], None)
def test_any_text_can_be_asked_for(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], data: st.DataObject | None
) -> None:
    folder = tmp_path_factory.mktemp("text") / "c"
    Store.create(folder, CONTRACT, Chunking(), "os")
    one, passages = np.eye(DIMENSION, dtype=np.float32)[:1], [Passage(0, 0, 1, np.zeros(1, np.int32))]
    encoded = [
        (make_document(f"t:{at}", "x", id=str(at), metadata={"key": value, "list": ["-", value]}), passages, one)
        for at, value in enumerate(values)
    ]
    store = Store.open(folder, "os").replace(passage_table(encoded, DIMENSION), [str(at) for at in range(len(values))])
    for at, value in enumerate(values):
        quoted = value.replace("'", "''")
        assert passing(store, f"metadata.key = '{quoted}'") == [f"{at}:0"], value
        among = passing(store, f"metadata.list = '{quoted}'")
        assert sorted(among) == [f"{each}:0" for each in range(len(values)) if value == "-" or each == at], value


@pytest.mark.parametrize(
    ("sql", "spot", "says"),
    [
        ("yaer = 3", "yaer", "unknown field 'yaer'"),
        ("uri = 'a' AND nope > 1", "nope", "unknown field 'nope'"),
        ("tokens > 3 !! 4", "!! 4", ""),
        ("(tokens > 3", None, ""),
        ("tokens = 'a", None, ""),
        ("tokens >", None, "something is missing after this"),
        ("", None, "exactly one condition"),
        ("tokens 3", None, "this is not expected here"),
        ("uri = 'a", None, "is not closed"),
        ("uri IN (SELECT uri FROM 5)", None, "Expected table name"),
        ("tokens > 1; DROP TABLE x", None, "exactly one condition"),
        ("DROP TABLE x", None, "not a condition"),
        ("SELECT 1", None, "not a condition"),
        ("tokens BETWEEN 3", None, ""),
        ("tokens = ?", "tokens", "a placeholder has no value"),
        ("uri = 'a' OR tokens = :x", "tokens", "a placeholder has no value"),
        ("uri = @x", "uri", "a placeholder has no value"),
        ("count(*) > 1", None, "looks at one passage"),
        ("uri = 'a' AND max(tokens) > 1", "tokens", "looks at one passage"),
        ("row_number() OVER () = 1", None, "looks at one passage"),
        ("uri IN (SELECT 1)", None, "a query cannot be used"),
        ("EXISTS (SELECT 1)", None, "a query cannot be used"),
        ("metadata.until > now()", "now()", "another value each time"),
        ("metadata.until > CURRENT_DATE", "CURRENT_DATE", "another value each time"),
        ("tokens > 1 AND random() < 0.5", "random()", "another value each time"),
        ("embedsvc('x') = ", None, ""),
        ("(" * 3000 + "tokens > 1" + ")" * 3000, None, "nested too deep"),
        ("NOT " * 2000 + "tokens > 1", None, "nested too deep"),
    ],
)
def test_a_bad_filter_is_refused_pointing_at_the_spot(store: Store, sql: str, spot: str | None, says: str) -> None:
    for ask in (store.matching, lambda sql: store.lexical("words", 3, where=sql)):
        with pytest.raises(BadFilter) as raised:
            ask(sql)
        lines = str(raised.value).splitlines()
        assert lines[0].startswith("Bad filter: ")
        assert "token" not in lines[0].lower().replace("tokens", ""), "these are the parser's own"
        assert says in lines[0]
        assert lines[1] == f"  {sql}"
        assert lines[2].strip() == "^"
        column = lines[2].index("^") - 2
        assert 0 <= column <= len(sql)
        if spot is not None:
            assert sql[column:].startswith(spot)


def test_a_filter_that_is_too_long_is_refused_and_a_long_list_of_texts_is_not(store: Store) -> None:
    with pytest.raises(BadFilter, match=r"has 59,996 characters .* 10,000 are allowed") as raised:
        store.matching(" OR ".join(["page = 1"] * 5000))
    assert len(str(raised.value)) < 400
    ids = ", ".join(f"'{number:032d}'" for number in range(4000))
    assert len(store.matching(f"document_id IN ({ids}) OR tokens > 0")) == store.count()
    assert documents(store, f"metadata.tag IN ({ids}, 'a')") == {"number"}
    assert documents(store, f"metadata.list IN ({ids}, 'it''s')") == {"null"}
    for values in (f"'{'x' * 20_000}'", ", ".join(f"'{number:0500d}'" for number in range(900))):
        with pytest.raises(BadFilter, match="Ask several times with fewer"):
            store.matching(f"metadata.tag IN ({values})")


def test_an_unknown_field_is_told_where_own_fields_are(store: Store) -> None:
    with pytest.raises(BadFilter, match=r"metadata\.year") as raised:
        store.matching("year > 2000")
    assert all(name in str(raised.value) for name in FIELDS)


@pytest.mark.parametrize(
    "sql", ["nonsense(uri)", "tokens + 'a'", "text", "tokens", "uri LIKE 3 + 'x' + 2", "metadata = 3"]
)
def test_what_the_store_cannot_evaluate_is_a_bad_filter_too(store: Store, sql: str) -> None:
    for ask in (store.matching, lambda sql: store.lexical("words", 3, where=sql)):
        with pytest.raises(BadFilter) as raised:
            ask(sql)
        assert sql in str(raised.value)
        assert ".rs:" not in str(raised.value)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("tokens = '3'", '"3" is compared with a field of whole numbers'),
        ("tokens > 2.5", "2.5 is compared with a field of whole numbers"),
        ("uri IN ('a', 3)", "3 is compared with a field of text"),
        ("metadata = 'x'", "name one: metadata.KEY"),
        ("CASE WHEN tokens = 1 THEN true END", "CASE WHEN tokens = 1 THEN true END cannot be used in a filter"),
        ("tokens LIKE 'a%'", "whole number and text in LIKE"),
        ("foo(uri) = 1", "Invalid function 'foo'"),
        ("regexp_like(uri, '[')", "unclosed character class"),
        ("CAST(uri AS banana) = 3", "there is no type banana"),
        ("approx_median(tokens) > 1", "cannot be used in a filter"),
        ("uri", "not a condition that is true or false"),
    ],
)
def test_what_the_store_says_of_a_filter_is_told_in_our_words(store: Store, sql: str, says: str) -> None:
    with pytest.raises(BadFilter) as raised:
        store.matching(sql)
    assert says in str(raised.value).splitlines()[0]
    foreign = ("lance", "datafusion", "arrow", "utf8", "int32", "int64", "external error", "planning", "literal")
    assert not [word for word in foreign if word in str(raised.value).lower()]


def test_compiling_touches_nothing_but_names() -> None:
    assert compile_filter("Uri = 'metadata.x = end' AND \"END\" > 3") == "`uri` = 'metadata.x = end' AND `end` > 3"


def test_text_in_double_quotes_is_told_about_single_ones() -> None:
    with pytest.raises(BadFilter, match="text stands in single quotes, 'Smith'"):
        compile_filter('metadata.author = "Smith"')
