"""How well a collection answers: by a BEIR folder, by one's own questions, or by sentences of its own passages."""

from embedsvc.errors import MissingDependency

try:
    import ir_measures  # noqa: F401
except ImportError as error:
    raise MissingDependency(
        f"Measuring answers needs the package ir-measures ({error}): pip install ir-measures. The container's image "
        "does without: measure where embedsvc was installed by pip."
    ) from None

from embedsvc.evaluate.beir import Evaluation, Folder, check_cutoffs, corpus_id, evaluate, judge, measure, read_folder
from embedsvc.evaluate.calibrating import calibrate
from embedsvc.evaluate.comparing import Comparison, Saved, check_gates, compare, failed_gates, read_saved, write_saved
from embedsvc.evaluate.questions import Expected, Question, Scored, answer_spans, measures_of, questions_from, score
from embedsvc.evaluate.synthetic import held_out

__all__ = [
    "Comparison",
    "Evaluation",
    "Expected",
    "Folder",
    "Question",
    "Saved",
    "Scored",
    "answer_spans",
    "calibrate",
    "check_cutoffs",
    "check_gates",
    "compare",
    "corpus_id",
    "evaluate",
    "failed_gates",
    "held_out",
    "judge",
    "measure",
    "measures_of",
    "questions_from",
    "read_folder",
    "read_saved",
    "score",
    "write_saved",
]
