"""Whether a difference between two runs over the same queries is more than chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_RESAMPLES = 10_000
_AT_ONCE = 1000


def bootstrap_interval(differences: Doubles) -> tuple[float, float]:
    """The 95 % interval of the mean of ``differences`` (n,), by percentiles over resampled ones."""
    count = len(differences)
    means = _resampled(lambda random, size: differences[random.integers(0, count, (size, count))].mean(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def randomisation_test(differences: Doubles, *, losses_only: bool = False) -> float:
    """How often the mean of ``differences`` (n,) would be as far from 0 by chance, each with either sign, as likely as
    not; ``losses_only``: as low.

    Source: Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval
    Evaluation", CIKM 2007.
    """
    count, mean = len(differences), differences.mean()
    means = _resampled(lambda random, size: (random.integers(0, 2, (size, count)) * 2 - 1) @ differences / count)
    as_far = means <= mean + 1e-12 if losses_only else np.abs(means) >= abs(mean) - 1e-12
    return float((1 + as_far.sum()) / (1 + _RESAMPLES))


def _resampled(means: Callable[[np.random.Generator, int], Doubles]) -> Doubles:
    """The same for the same differences."""
    random = np.random.default_rng(0)
    return np.concatenate([means(random, _AT_ONCE) for _ in range(_RESAMPLES // _AT_ONCE)])
