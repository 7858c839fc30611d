"""Words of a query in a text, and where sentences end: what highlights and confidence look at."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice, pairwise

Span = tuple[int, int]
"""Characters ``[start, end)``."""

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_HAS_CJK = re.compile(f"[{_CJK}]")
_COUNTED = re.compile(rf"[{_CJK}]{{1,2}}|[^\W_{_CJK}]+")
_SUFFIXES = ("ings", "ing", "edly", "ed", "ies", "es", "ly", "s", "e", "y")
_SHORTEST = 3
"""Characters that an ending must leave."""
_MOST_WORDS = 64
"""Of a query, that are looked for in pairs."""
_FARTHEST = 20
"""Characters between words that still follow one another: a few function words."""
_STOP = frozenset(
    """
    a about after an and are as at be been before but by can could did do does during for from had has have he her his
    how i if in into is it its many me most much my no not of on or our she should so than that the their them then
    there these they this to was we were what when where which who whom whose why will with would you your
    """.split()  # noqa: SIM905 - one a line is no list to read
)
_SENTENCE_END = re.compile(
    r"""(?<=[.!?…]) ["'”’)\]]* \s+ (?=[^\sa-z])   # a full stop, and then nothing in lower case
    | (?<=[。！？])
    | \n\s*\n
    | \n(?=\s*(?:[-*•|\#]|\d+[.)]\s))             # a list, a table, comments
    | \n(?=[^\n\t]*\S\t)                           # a table of a page or an office file""",
    re.VERBOSE,
)
_ADORNMENT = r"([!-/:-@\[-`{-~])\%d{2,}[ \t]*(?=\r?$)"
_HEADING = re.compile(
    rf"""\n(?: [ ]{{0,3}}\#{{1,6}}[ \t][^\r\n]*             # Markdown
    | (?: (?<=\n\n) | (?<=\n\r\n))                        # reStructuredText, after an empty line
      (?: {_ADORNMENT % 1} \r?\n)?
      (?![-*•|+\#>] | \d+[.)])[^\s][^\r\n]*\r?\n {_ADORNMENT % 2})""",
    re.VERBOSE | re.MULTILINE,
)
"""With the end of the line before: what begins with one character is found six times as fast."""
_LONG = 400
"""Characters of a sentence from which on lesser ends count: of text in lower case, of lines."""
_LESSER_ENDS = (re.compile(r"(?<=[.!?…])\s+"), re.compile(r"(?<=;)\s+|\n"))
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Z]|[Dd]r|[Mm]rs?|[Mm]s|[Pp]rof|[Ss]t|[Nn]o|vs|cf|approx|[Ff]igs?|e\.g|i\.e)\.)$"
)


def query_terms(query: str) -> frozenset[str]:
    """The stems of the query's words, without English function words unless it has no others."""
    words = list(_words(query))
    telling = [word for word in words if word not in _STOP]
    return frozenset(_stem(word) for word in telling or words)


def first_words(text: str, count: int) -> tuple[str, int]:
    """``text`` up to the end of its word number ``count``, and how many words that leaves out."""
    if len(text) <= count:
        return text, 0
    ends = [found.end() for found in _COUNTED.finditer(text)]
    return (text, 0) if len(ends) <= count else (text[: ends[count - 1]], len(ends) - count)


def is_only_punctuation(text: str) -> bool:
    """Whether ``text`` has neither a word nor a sign with a meaning of its own, such as ``=`` or an emoji."""
    return all(unicodedata.category(character)[0] in "PZC" for character in text)


def query_pairs(query: str) -> frozenset[tuple[str, str]]:
    """The stems that follow one another in the query, English function words left out, no word with itself; of a very
    long query, in its beginning."""
    telling = (word for word in _words(query) if word not in _STOP)
    stems = [_stem(word) for word in islice(telling, _MOST_WORDS)]
    return frozenset((one, other) for one, other in pairwise(stems) if one != other)


def pairs_in(text: str, pairs: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Those of ``pairs`` (:func:`query_pairs`) that follow one another in ``text`` too, with nothing between them but
    function words and signs."""
    found = set()
    spans = term_spans(text, frozenset(stem for pair in pairs for stem in pair))
    for ((_, end), one), ((start, _), other) in pairwise(spans):
        if (one, other) in pairs and start - end <= _FARTHEST and _STOP.issuperset(_words(text[end:start])):
            found.add((one, other))
    return frozenset(found)


def content_words(text: str) -> list[str]:
    """The words of ``text`` in lower case, in its order, without English function words, numbers and single letters."""
    return [word for word in _words(text) if word not in _STOP and len(word) > 1 and not word.isdecimal()]


def term_spans(text: str, terms: frozenset[str]) -> list[tuple[Span, str]]:
    """Every word of ``text`` whose stem is among ``terms``, and that stem, in the order of the text."""
    lowered = _lower(text)
    found: list[tuple[Span, str]] = []
    for term in terms:  # by str.find: twenty times as fast as looking at every word
        at = lowered.find(term)
        while at >= 0:
            end = at + len(term)
            if _HAS_CJK.match(term):
                found.append(((at, end), term))
            elif at == 0 or not lowered[at - 1].isalnum():
                while end < len(lowered) and lowered[end].isalnum():
                    end += 1
                if _stem(lowered[at:end]) == term:
                    found.append(((at, end), term))
            at = lowered.find(term, end)
    return sorted(found)


def sentence_spans(text: str) -> list[Span]:
    """The sentences of ``text``, without white space around them. Headings, items of lists and rows of tables are
    sentences of their own. One of more than ``_LONG`` characters is parted at full stops before lower case too, and
    where that is not enough at semicolons and lines."""
    spans: list[Span] = []
    start = 0
    for heading in heading_spans(text):
        spans += (*_sentences(text, start, heading[0]), heading)
        start = heading[1]
    return [*spans, *_sentences(text, start, len(text))]


def heading_spans(text: str) -> list[Span]:
    """The headings of ``text`` that Markdown or reStructuredText marks as such, with those marks."""
    return [_trimmed(text, (found.start() - 1, found.end() - 2)) for found in _HEADING.finditer(f"\n\n{text}")]


def _sentences(text: str, start: int, last: int) -> list[Span]:
    """Those between two headings."""
    spans: list[Span] = []
    for end in _SENTENCE_END.finditer(text, start, last):
        # A list number or an initial at the end of the match's text is no end of a sentence.
        if "\n" not in end[0] and _ABBREVIATION.search(text, max(start, end.start() - 8), end.start()):
            continue
        spans.append((start, end.end()))
        start = end.end()
    spans.append((start, last))
    for ends in _LESSER_ENDS:
        spans = [part for span in spans for part in _parted(text, span, ends)]
    return [trimmed for span in spans if (trimmed := _trimmed(text, span))[0] < trimmed[1]]


def _parted(text: str, span: Span, ends: re.Pattern[str]) -> Iterator[Span]:
    start, last = span
    if last - start > _LONG:
        for end in ends.finditer(text, start, last):
            yield start, end.end()
            start = end.end()
    yield start, last


def _trimmed(text: str, span: Span) -> Span:
    piece = text[span[0] : span[1]]
    start = span[0] + len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def words_of(text: str) -> list[str]:
    """All words of ``text`` in lower case, in its order."""
    return list(_words(text))


def _words(text: str) -> Iterator[str]:
    """Chinese and Japanese, which have no spaces, come as pairs of characters."""
    for word in _WORD.findall(_lower(text)):
        if len(word) > 2 and _HAS_CJK.match(word):
            yield from (word[at : at + 2] for at in range(len(word) - 1))
        else:
            yield word


def _lower(text: str) -> str:
    """``text`` in lower case, of the same length: offsets hold."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(lower if len(lower := character.lower()) == 1 else character for character in text)


def _stem(word: str) -> str:
    """``word``, which is in lower case, without its most usual English ending; in other languages what is cut off is
    cut off both in the query and in the text."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= _SHORTEST:
            return word[: -len(suffix)]
    return word
