"""Fits a collection's confidence: its own questions, with the documents that answer and with these left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedsvc.encoding import Encoder
from embedsvc.errors import UsageError
from embedsvc.evaluate.beir import EACH_DOCUMENT
from embedsvc.evaluate.questions import Question
from embedsvc.records import Calibration
from embedsvc.search import Hit, Mode, Query, search
from embedsvc.search.confidence import auroc, fit, likelihoods, signals
from embedsvc.upkeep import Snapshot

_LEAST = 20
"""Questions: of fewer, four numbers tell more about chance than about the collection."""
_HITS = 5
"""That are looked at for each question, with and without what answers it."""
_FOLDS = 5
_USELESS = 0.6
"""AUROC below which nobody is helped: a coin has .5, and 20 questions stray by .1."""

Floats = npt.NDArray[np.float64]


class _Asked:
    """The signals (n, 3) of the hits of one question, and which of them answer it (n,); ``absent`` (m, 3): those of
    the hits that come where the documents that answer are left out."""

    def __init__(self, present: Floats, answers: npt.NDArray[np.bool_], absent: Floats, group: str) -> None:
        self.present, self.answers, self.absent, self.group = present, answers, absent, group


def calibrate(
    snapshot: Snapshot, encoder: Encoder, questions: Sequence[Question], mode: Mode = "hybrid"
) -> Calibration:
    """The calibration under which the hits of ``questions`` that answer, and those that do not, are likeliest.

    Its ``auroc`` is of five folds, each judged by what was fitted to the others; questions about one document are in
    one fold. ``answers_from`` tells best, by balanced accuracy, whether an answer is there.

    Raises:
        UsageError: there are fewer than 20 questions whose answer is in the collection, or mode is ``lexical``, or
            no question finds its answer; or what was fitted tells hardly more than chance.
    """
    if mode == "lexical":
        raise UsageError("Confidence is fitted to cosines: calibrate in mode hybrid or dense.")
    known = [question for question in questions if any(expected.document_id for expected in question.expected)]
    if len(known) < _LEAST:
        raise UsageError(
            f"{len(known)} of the questions have their answer in {snapshot.name!r}; {_LEAST} are needed to calibrate."
        )
    asked = [_ask(snapshot, encoder, question, mode) for question in known]
    try:
        weights = _fit(asked)
        present, absent = _judged_by_the_others(asked)
    except ValueError:
        raise UsageError(
            f"Too few of the {len(known)} questions find their answer in {snapshot.name!r}: there is nothing to fit to."
        ) from None
    told_apart = round(auroc(present, absent), 4)
    if told_apart < _USELESS:
        raise UsageError(
            f"By these {len(known)} questions confidence tells an answer from none hardly better than a coin: AUROC is "
            f"{told_apart:.2f}, that of a coin .50. It was not kept. Give questions whose answers are in one document "
            "only, or more of them."
        )
    pairs = sum(len(each.present) + len(each.absent) for each in asked)
    return Calibration(
        *weights,
        answers_from=round(_threshold(present, absent), 4),
        queries=len(asked),
        pairs=pairs,
        auroc=told_apart,
    )


def best_confidences(
    snapshot: Snapshot, encoder: Encoder, questions: Sequence[Question], calibration: Calibration, mode: Mode = "hybrid"
) -> tuple[Floats, Floats]:
    """Each question's best confidence, with the documents that answer it and without them."""
    asked = [_ask(snapshot, encoder, question, mode) for question in questions]
    return _best(asked, calibration.weights)


def _ask(snapshot: Snapshot, encoder: Encoder, question: Question, mode: Mode) -> _Asked:
    documents = sorted({expected.document_id for expected in question.expected if expected.document_id})
    quoted = ", ".join("'" + id.replace("'", "''") + "'" for id in documents)

    def hits_of(filter: str | None) -> Sequence[Hit]:
        query = Query(question.text, k=_HITS, mode=mode, filter=filter, on_overflow="truncate", selection=EACH_DOCUMENT)
        return search(snapshot, encoder, query).hits

    present, absent = hits_of(None), hits_of(f"document_id NOT IN ({quoted})")
    answers = [any(expected.is_met_by(hit) for expected in question.expected) for hit in present]
    return _Asked(
        signals(question.text, present), np.array(answers, bool), signals(question.text, absent), documents[0]
    )


def _fit(asked: Sequence[_Asked]) -> tuple[float, float, float, float]:
    rows = np.concatenate([rows for each in asked for rows in (each.present, each.absent)])
    answers = np.concatenate([part for each in asked for part in (each.answers, np.zeros(len(each.absent), bool))])
    return fit(rows, answers)


def _judged_by_the_others(asked: Sequence[_Asked]) -> tuple[Floats, Floats]:
    groups = list(dict.fromkeys(each.group for each in asked))
    fold_of = {group: at % _FOLDS for at, group in enumerate(groups)}
    present, absent = [], []
    for fold in range(_FOLDS):
        inside = [each for each in asked if fold_of[each.group] == fold]
        outside = [each for each in asked if fold_of[each.group] != fold]
        if inside:
            there, gone = _best(inside, _fit(outside))
            present.append(there)
            absent.append(gone)
    return np.concatenate(present), np.concatenate(absent)


def _best(asked: Sequence[_Asked], weights: tuple[float, float, float, float]) -> tuple[Floats, Floats]:
    def best(rows: Floats) -> float:
        return float(likelihoods(rows, weights).max(initial=0.0))

    return np.array([best(each.present) for each in asked]), np.array([best(each.absent) for each in asked])


def _threshold(present: Floats, absent: Floats) -> float:
    """From where on there is an answer, so that both kinds are told as well as can be."""
    values = np.unique(np.concatenate([present, absent]))
    middles = np.append((values[:-1] + values[1:]) / 2, values[-1])
    right = [(present >= value).mean() + (absent < value).mean() for value in middles]
    return float(middles[int(np.argmax(right))])
