"""Documents into passages: a sliding window over the tokenizer's own offsets, its edges moved to sentence or word ends.

One pass, linear in time: pieces of the text are tokenised in groups, each group is reduced at once to numpy arrays
(``_Units``), and windows are laid over those. Python loops run per piece and per window, never per character.

Shapes: a document has T tokens and U units. A unit is the smallest thing that a passage holds or leaves: one token, or
the tokens that share a character (byte-level BPE, Hangul after NFD), or a piece of text that gives no token at all.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedsvc.context import context_of
from embedsvc.errors import UsageError
from embedsvc.records import ChunkContext, Chunking, Document, Passage

Ints = npt.NDArray[np.int32]

SEGMENT = 65_536  # characters per tokenizer input
GROUP = 8 * SEGMENT  # characters per encode_batch call: enough inputs for every core, tens of MB of Encodings
RUN = 2_048  # a run without white space is cut into pieces of at most this many characters before it is tokenised
CHARS_PER_TOKEN = 32  # a passage has at most this many characters per token of its window (prose has 4 to 5), or RUN
LOOKBACK = 1_024  # characters before a group in which the end of its previous sentence is looked for

SHORTEST = 4  # a window ends before a heading where at least a SHORTEST-th of it is full by then

# What a cut is worth. INSIDE parts a base character from its mark; WORD is beside white space or a script without it;
# HEADING is where a section of the document, or a definition in source code, begins.
INSIDE, ANY, PUNCTUATION, WORD, SENTENCE, HEADING = range(6)

SPACE, BREAK, BLANK, NEWLINE, EXTEND, JOINER, PUNCT, CLOSER, STOP, WIDE_STOP, UNSPACED, ALNUM = (
    1 << bit for bit in range(12)
)
# Blocks of Unicode 15 whose scripts put no space between words, with the CJK punctuation that stands among them.
_UNSPACED_BLOCKS = (
    (0x0E00, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0x2E80, 0x312F), (0x3190, 0xA4CF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF01, 0xFF0F), (0xFF1A, 0xFF20),
    (0xFF5B, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip
# Spacing characters that extend a grapheme all the same (UAX 29): ZWNJ and ZWJ, vowels and finals of conjoining Hangul,
# emoji skin tones, tag characters.
_EXTENDING_BLOCKS = ((0x200C, 0x200D), (0x1160, 0x11FF), (0xD7B0, 0xD7FB), (0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F))
_BY_CHARACTER = {" ": BLANK, "\n": NEWLINE | BREAK, "\t": BREAK, "\r": BREAK, "\u200d": JOINER}
_BY_CHARACTER |= dict.fromkeys("\"'`*_", CLOSER)  # straight quotes, and the marks that close an emphasis in Markdown
_BY_CHARACTER |= dict.fromkeys(".!?…‼⁇⁈⁉؟۔।॥։።၊။", STOP) | dict.fromkeys("。！？｡", WIDE_STOP)
_BY_CATEGORY = dict.fromkeys(("Zs", "Zl", "Zp"), BREAK) | dict.fromkeys(("Mn", "Mc", "Me"), EXTEND)
_BY_CATEGORY |= dict.fromkeys(("Pe", "Pf"), CLOSER)
_BY_MAJOR = {"P": PUNCT, "S": PUNCT, "L": ALNUM, "N": ALNUM}
_SOLID = re.compile(r"\S")  # in a str pattern, exactly the characters that are not str.isspace


@dataclass(frozen=True, slots=True)
class Chunks:
    """What :func:`chunk` made of a document.

    ``tokens``: of the document, each counted once. ``tokens_cut``: those that no passage's vector sees; always 0
    unless ``Chunking.whole``, or one single character has more tokens than a window.
    """

    passages: tuple[Passage, ...]
    tokens: int
    tokens_cut: int


@dataclass(frozen=True, slots=True)
class _Units:
    """A tokenised text. Unit ``u`` owns ``text[cuts[u]:cuts[u + 1]]`` and ``ids[before[u]:before[u + 1]]``."""

    ids: Ints  # (T,)
    cuts: Ints  # (U + 1,) strictly rising from 0 to len(text): places where the text may be cut
    before: Ints  # (U + 1,) tokens before the cut
    grades: npt.NDArray[np.uint8]  # (U + 1,) what the cut is worth


def chunk(document: Document, tokenizer: Tokenizer, chunking: Chunking, *, reserved: int) -> Chunks:
    """Cut ``document`` into passages of at most ``chunking.window - reserved`` tokens, those of their context counted.

    ``reserved`` counts the special tokens and the passage prompt, which the encoder adds to every passage.
    ``tokenizer`` must neither truncate nor pad; it is only read, so threads may share it.

    Raises:
        UsageError: the window leaves no room for text behind the overlap, or a sub-window none at all.
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        raise ValueError("chunk needs a tokenizer without truncation and padding (no_truncation(), no_padding())")
    capacity, overlap = chunking.window - reserved, 0 if chunking.whole else chunking.overlap
    if overlap < 0 or capacity <= overlap:
        raise UsageError(
            f"a window of {chunking.window} tokens, less {reserved} for special tokens and the passage prompt, holds "
            f"{capacity} tokens of text: too few for an overlap of {overlap}, which must be 0 or more and below that. "
            "Lower the overlap or take a larger window"
        )
    text = document.text
    finer = finer_capacity(chunking, reserved)
    if not text or text.isspace():
        return Chunks((), 0, 0)
    units = _tokenise(text, tokenizer)
    _grade_headings(text, units, [heading.start for heading in document.headings])
    ids = units.ids
    # A quarter of the window, and with an overlap no more than half of what each window brings.
    most = min(capacity // 4, (capacity - overlap) // 2, *([finer // 4] if finer else []))
    context_at = _Contexts(document, tokenizer, chunking.context, most)

    def passage(ordinal: int, start: int, end: int, own: Ints) -> Passage:
        context = context_at(start, end)
        seen = own[: capacity - len(context.ids)]
        parts = finer_windows(seen, max(0, finer - len(context.ids)))
        return Passage(ordinal, start, end, seen, parts, context.words, context.ids)

    if chunking.whole:
        whole = passage(0, len(text) - len(text.lstrip()), len(text.rstrip()), ids)
        return Chunks((whole,), len(ids), len(ids) - len(whole.token_ids))
    passages: list[Passage] = []
    cut = 0
    for start, end, first, last in _windows(text, units, lambda at: capacity - context_at.room(at), overlap):
        passages.append(passage(len(passages), start, end, ids[first:last]))
        cut += last - first - len(passages[-1].token_ids)
    return Chunks(tuple(passages), len(ids), cut)


def encoded_windows(passage: Passage) -> tuple[Ints, ...]:
    """What is encoded for a passage, token ids without special tokens and prompt: the whole of it, then its
    sub-windows, each behind the passage's context."""
    own = passage.token_ids, *passage.finer
    if not passage.context_ids:
        return own
    context = np.array(passage.context_ids, np.int32)
    return tuple(np.concatenate([context, ids]) for ids in own)


@dataclass(frozen=True, slots=True)
class _Context:
    words: str
    ids: tuple[int, ...]


class _Contexts:
    """The contexts of a document's windows, of at most ``most`` tokens; each is tokenised once."""

    def __init__(self, document: Document, tokenizer: Tokenizer, shown: ChunkContext, most: int) -> None:
        self._document, self._tokenizer, self._shown, self._most = document, tokenizer, shown, most
        self._ids: dict[str, tuple[int, ...]] = {"": ()}

    def __call__(self, start: int, end: int) -> _Context:
        """Of the window ``[start, end)``: no more tokens than there is :meth:`room` for."""
        words = self._words(start, self._document.text[start:end])
        return _Context(words, self._tokens(words)[: self.room(start)])

    def room(self, start: int) -> int:
        """Tokens that a window from ``start`` on keeps for its context. Where it ends, and so whether it says some of
        that itself, is known only when its room is."""
        return len(self._tokens(self._words(start, "")))

    def _words(self, start: int, text: str) -> str:
        if self._shown == "none":
            return ""
        document = self._document
        heading = document.heading_at(start)
        return context_of(text, uri=document.uri, title=document.title, heading=heading, shown=self._shown)

    def _tokens(self, words: str) -> tuple[int, ...]:
        if words not in self._ids:
            ids = self._tokenizer.encode(f"{words}\n", add_special_tokens=False).ids
            self._ids[words] = tuple(ids[: self._most])
        return self._ids[words]


def finer_capacity(chunking: Chunking, reserved: int) -> int:
    """Tokens of text in a sub-window; 0 where ``chunking`` wants none.

    Raises:
        UsageError: there would be no room for text.
    """
    if not chunking.finer:
        return 0
    if chunking.finer <= reserved:
        raise UsageError(
            f"A sub-window of {chunking.finer} tokens leaves no room for text: {reserved} are special tokens and the "
            "passage prompt. Raise finer_tokens, or take 0 for none."
        )
    return chunking.finer - reserved


def finer_windows(token_ids: Ints, capacity: int) -> tuple[Ints, ...]:
    """Sub-windows of ``capacity`` tokens each that together hold all ``token_ids`` (T,), in order and evenly laid, each
    sharing about half with the next, a quarter at least; none where T fits into one, or ``capacity`` is 0."""
    beyond = len(token_ids) - capacity
    if not capacity or beyond <= 0:
        return ()
    half = max(1, capacity // 2)
    # Rounded to the nearest: a window of 510 in sub-windows of 254 takes three, for two tokens more none is added.
    steps = max(1, (2 * beyond + half) // (2 * half))
    starts = [beyond * step // steps for step in range(steps + 1)]
    return tuple(token_ids[start : start + capacity] for start in starts)


def _grade_headings(text: str, units: _Units, starts: Sequence[int]) -> None:
    """Mark the cuts where headings begin; white space may lie between, of the indentation of a method."""
    places = np.array(starts, np.int64)
    places = places[(places > 0) & (places < len(text))]
    for place, unit in zip(places, np.searchsorted(units.cuts, places), strict=True):
        between = text[place : units.cuts[unit]]
        if not between or between.isspace():
            units.grades[unit] = HEADING


def _windows(
    text: str, units: _Units, capacity: Callable[[int], int], overlap: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield each window's span ``start, end`` (trimmed) and its tokens ``first, last``, at most ``capacity(start)``.

    ``done`` units are covered. A window may start before ``done`` (the overlap) but always ends behind it, and starts
    and ends on a unit that is not only white space, so that no passage lies within another.
    """
    cuts, before, grades = units.cuts, units.before, units.grades

    def solid_from(unit: int) -> int:
        found = _SOLID.search(text, int(cuts[unit]))
        return found.start() if found else len(text)

    begin = done = 0
    while (fresh := solid_from(done)) < len(text):
        start = solid_from(begin)
        begin, done = bisect_right(cuts, start) - 1, bisect_right(cuts, fresh) - 1
        stop = _window_end(units, begin, done, capacity(start))
        if stop is None:  # the next word does not fit behind the overlap: go without
            begin, start = done, fresh
            stop = _window_end(units, begin, done, capacity(start)) or done + 1
        end = start + len(text[start : cuts[stop]].rstrip())
        done = bisect_left(cuts, end)
        yield start, end, int(before[begin]), int(before[done])
        if grades[stop] == HEADING:  # what follows is of another section, and has the whole window for itself
            begin = done
            continue
        # The overlap: from half of it to all of it, at a heading's or sentence's start, else at a word's.
        low = bisect_left(before, before[done] - overlap, begin + 1, done)
        high = bisect_right(before, before[done] - (overlap + 1) // 2, low, done) if overlap else low
        begin = done
        for grade in (HEADING, SENTENCE, WORD):
            found = np.flatnonzero(grades[low:high] >= grade)
            if len(found):
                begin = low + int(found[0])
                break


def _window_end(units: _Units, begin: int, done: int, capacity: int) -> int | None:
    """The cut behind ``done`` where the window from unit ``begin`` ends; None if an overlap would cost a cut word."""
    cuts, before = units.cuts, units.before
    limit = max(capacity * CHARS_PER_TOKEN, RUN)
    tokens, chars = int(before[begin]) + capacity, int(cuts[begin]) + limit
    high = min(bisect_right(before, tokens), bisect_right(cuts, chars)) - 1
    if high == len(cuts) - 1:
        return high
    grades = units.grades[done + 1 : high + 1]
    found = np.flatnonzero(grades == HEADING)
    if len(found):
        stop = done + 1 + int(found[-1])
        if SHORTEST * (before[stop] - before[begin]) >= capacity or SHORTEST * (cuts[stop] - cuts[begin]) >= limit:
            return stop
    found = np.flatnonzero(grades >= SENTENCE)
    if len(found):
        stop = done + 1 + int(found[-1])
        if 2 * (before[stop] - before[begin]) >= capacity or 2 * (cuts[stop] - cuts[begin]) >= limit:
            return stop
    for grade in (WORD, PUNCTUATION, ANY, INSIDE):
        if grade < WORD and begin < done:
            return None
        found = np.flatnonzero(grades >= grade)
        if len(found):
            return done + 1 + int(found[-1])
    return None


def _tokenise(text: str, tokenizer: Tokenizer) -> _Units:
    """Tokenise ``text``, every character once, holding the Encodings of one group at a time."""
    skip_blank = len(text) > SEGMENT and _supplies_blank(tokenizer)
    all_ids: list[Ints] = []
    all_cuts: list[Ints] = []
    all_before: list[Ints] = []
    all_grades: list[npt.NDArray[np.uint8]] = []
    total = 0
    for group in _groups(text):
        froms = [low + (skip_blank and low > 0 and text[low] == " ") for low, _ in group]
        inputs = [text[at:high] for at, (_, high) in zip(froms, group, strict=True)]
        starts: list[Ints] = []
        floors: list[Ints] = []
        for (low, _), at, encoding in zip(
            group, froms, tokenizer.encode_batch(inputs, add_special_tokens=False), strict=True
        ):
            ids = np.array(encoding.ids, np.int32)
            offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2) + at
            if not len(ids):  # dropped by the tokenizer (controls, zero-width …), but text all the same
                ids, offsets = np.empty(0, np.int32), np.array([[low, low]], np.int32)
            own = np.diff(offsets[:, 0], prepend=-1) > 0  # not within the character that the token before starts
            starts.append(offsets[own, 0])
            floors.append(np.concatenate([[low], offsets[:-1, 1]])[own].astype(np.int32))
            all_before.append((total + np.flatnonzero(own)).astype(np.int32))
            all_ids.append(ids)
            total += len(ids)
        cuts, grades = _settle(text, np.concatenate(starts), np.concatenate(floors))
        all_cuts.append(cuts)
        all_grades.append(grades)
    all_cuts[0][0] = 0
    cuts = np.concatenate([*all_cuts, np.array([len(text)], np.int32)])
    rising = np.diff(cuts, prepend=np.int32(-1)) > 0  # a tokenizer may give a token without extent at a piece's end
    return _Units(
        ids=np.concatenate(all_ids),
        cuts=cuts[rising],
        before=np.concatenate([*all_before, np.array([total], np.int32)])[rising],
        grades=np.concatenate([*all_grades, np.array([SENTENCE], np.uint8)])[rising],
    )


def _supplies_blank(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer puts a space before any input (Llama's ``Prepend``): pieces must come without their own."""
    both, left, spaced, right = (tokenizer.encode(x, add_special_tokens=False).ids for x in ("a b", "a", " b", "b"))
    return both != left + spaced and both == left + right


def _groups(text: str) -> Iterator[list[tuple[int, int]]]:
    """The pieces of ``text``, some ``GROUP`` characters at a time."""
    group: list[tuple[int, int]] = []
    for piece in _pieces(text):
        group.append(piece)
        if piece[1] - group[0][0] >= GROUP:
            yield group
            group = []
    if group:
        yield group


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Spans, end to end over ``text``, that can be tokenised one by one: at most SEGMENT long, no run above RUN."""
    low = 0
    while low < len(text):
        high = low + SEGMENT
        high = _segment_end(text, low, high) if high < len(text) else len(text)
        spaces = low + np.flatnonzero(_classes(text[low:high]) & SPACE)
        edges = np.concatenate([[low - 1], spaces, [high]])
        for long in np.flatnonzero(np.diff(edges) > RUN + 1):
            at, end = int(edges[long]) + 1, int(edges[long + 1])
            while end - at > RUN:
                at = _hard_cut(text, at, at + RUN)
                yield low, at
                low = at
        yield low, high
        low = high


def _segment_end(text: str, low: int, high: int) -> int:
    """Where to end a segment so that no tokenizer notices: before the white space that follows a word.

    Best before one plain space between two letters or digits. There BERT, SentencePiece (Metaspace) and every
    byte-level pattern part; before a newline they do not (cl100k joins it to a full stop, ``add_prefix_space`` puts
    a space before it).
    """
    middle = (low + high) // 2
    classes = _classes(text[middle - 1 : high + 1])
    left, here, right = classes[:-2], classes[1:-1], classes[2:]
    for good in (
        (left & ALNUM).astype(bool) & (here & BLANK).astype(bool) & (right & ALNUM).astype(bool),
        ~(left & SPACE).astype(bool) & (here & BREAK).astype(bool),
    ):
        found = np.flatnonzero(good)
        if len(found):
            return middle + int(found[-1])
    return _hard_cut(text, low, high)


def _hard_cut(text: str, low: int, high: int) -> int:
    """The best place to cut in the last quarter of ``text[low:high]``, which has no white space to cut at."""
    places = np.arange(high - (high - low) // 4, high + 1, dtype=np.int32)
    _, grades = _settle(text, places, places)
    return int(places[np.flatnonzero(grades == grades.max())[-1]])


def _settle(text: str, starts: Ints, floors: Ints) -> tuple[Ints, npt.NDArray[np.uint8]]:
    """Cuts and grades (U,) of units at ``starts`` (U,), given where the token before each ends, ``floors`` (U,).

    A unit owns the text up to the next unit's start, so a character that the tokenizer drops goes with what stands
    before it; but if white space parts the two (behind the token's own end), with what follows it.
    """
    low = max(0, int(floors[0]) - LOOKBACK)
    classes = np.concatenate([[SPACE], _classes(text[low : int(starts[-1]) + 1]), [SPACE]])  # shifted by one
    index = np.arange(len(classes), dtype=np.int32)
    last_space = np.maximum.accumulate(np.where(classes & SPACE, index, 0))
    behind = last_space[starts - low]  # shifted by one, so the place right behind the last white space
    at = np.where(behind > floors - low, behind, starts - low).astype(np.int32)

    left, right = classes[at], classes[at + 1]
    last_solid = np.maximum.accumulate(np.where(classes & SPACE, 0, index))[at]
    ended = classes[np.maximum.accumulate(np.where(classes & CLOSER, 0, index))[last_solid]]
    newlines = np.cumsum(classes & NEWLINE > 0, dtype=np.int32)
    spaced = (left | right) & SPACE > 0
    sentence = spaced & (ended & STOP > 0) | (newlines[at] - newlines[last_solid] > 1)
    sentence |= (ended & WIDE_STOP > 0) & (right & (CLOSER | STOP | WIDE_STOP | EXTEND) == 0)
    unspaced = ((left | right) & UNSPACED > 0) & (right & (CLOSER | STOP | WIDE_STOP) == 0)
    inside = (right & EXTEND > 0) | (left & JOINER > 0)
    grades = np.select(
        [sentence, spaced, inside, unspaced, (left | right) & PUNCT > 0],
        [SENTENCE, WORD, INSIDE, WORD, PUNCTUATION],
        ANY,
    )
    grades[starts < floors] = INSIDE  # the token before ends with a part (some bytes) of this unit's first character
    return at + np.int32(low), grades.astype(np.uint8)


def _classes(text: str) -> npt.NDArray[np.uint16]:
    """The class bits of each character, shape ``(len(text),)``."""
    return _table()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]


@cache
def _table() -> npt.NDArray[np.uint16]:
    """Class bits by code point, shape ``(0x110000,)``. Planes 4 to 13 and private use have none; built in 0.1 s."""
    table = np.zeros(0x110000, np.uint16)
    for code in (*range(0x34000), *range(0xE0000, 0xE0200)):
        character = chr(code)
        category = unicodedata.category(character)
        table[code] = (
            _BY_CHARACTER.get(character, 0)
            | _BY_CATEGORY.get(category, 0)
            | _BY_MAJOR.get(category[0], 0)
            | (SPACE if character.isspace() else 0)
        )
    for blocks, bit in ((_UNSPACED_BLOCKS, UNSPACED), (_EXTENDING_BLOCKS, EXTEND)):
        for first, last in blocks:
            table[first : last + 1] |= bit
    return table
