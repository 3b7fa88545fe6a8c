"""The choice of thresholds, in the manner of TunedThresholdClassifierCV."""

from __future__ import annotations

from copy import deepcopy
from numbers import Real
from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MetaEstimatorMixin, is_clusterer
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.metaestimators import available_if

from ._delegation import DelegatesToEstimator
from ._in_parts import FitsInParts
from ._tuned_in_parts import TunedInParts
from ._tuning._held_out import Data
from ._tuning._risk import RiskControl
from ._utils._compat import StrOptions, _fit_context
from ._utils._streams import brings_labels, is_stream
from ._utils._validation import Interval


def _takes_parts(search: Any) -> bool:
    return hasattr(search.estimator, "partial_fit")


class TunedExitsCV(
    TunedInParts, DelegatesToEstimator, MetaEstimatorMixin, BaseEstimator
):
    """Choose when samples exit early: the thresholds, by cross-validation.

    One pass of the network over the data gives what every exit says of every sample,
    by class means that have not seen it. From there on the network does not run again:
    thresholds are found by exact sweeps, one exit at a time, for a range of prices,
    and what is expected to be best at every cost is kept in `frontier_`.

    Parameters
    ----------
    estimator : E2CMClassifier or E2CMClusterer
        Its `threshold` is what is chosen.

    max_cost : float, default=None
        Choose the thresholds of at most this cost that are expected to be the most
        accurate, in fractions of the network's multiply-adds, or of its time if the
        estimator has ``cost_unit="seconds"``.

    max_drop : float, default=None
        Choose the cheapest thresholds of the frontier that lose at most this much of
        the full network's score on the samples held out, which promises nothing of new
        ones: see `confidence`. A share: 0.01 is one point of accuracy.

    confidence : float, default=None
        Allow only thresholds whose drop on new samples stays within `max_drop`, too,
        with at least this probability over the samples held out; 0.95 is usual. Half of
        these are set aside to test that, and seen by nothing else. For accuracy only,
        and without weights.

    scoring : str or scorer, default="accuracy"
        A name that scikit-learn knows, or what `make_scorer` returns, of predicted
        labels. Accuracy and balanced accuracy are optimised directly; other scores
        choose among the thresholds that are best by accuracy.

    per_class : bool, default=False
        Give each class its own thresholds, starting from those of [1]_. These are
        many numbers: they need some hundred samples for each class and exit.

    risk : RiskControl, default=None
        Allow only thresholds for which this promise can be given. Neither `max_cost`
        nor `max_drop` is needed then: the cheapest are chosen.

    cv : int, float, cross-validation generator, iterable or "prefit", default=5
        Which samples are held out from the class means for choosing thresholds.
        Where a network has been trained on some of the samples, hold out others:
        a network is too sure of what it was trained on. Use "prefit", or a
        `PredefinedSplit` with -1 for the samples that it was trained on. A float is
        the share held out. No sample may be held out twice. "prefit" takes a fitted
        estimator as it is, and holds out all samples.

    refit : bool, default=True
        Whether the class means are those of all samples, or of those that are never
        held out; False needs such samples. Ignored with ``cv="prefit"``.

    random_state : int, RandomState instance or None, default=None
        Draws the random candidates, a `cv` given as a float or without labels, and
        the samples set aside for `confidence` or `risk`.

    verbose : int, default=0
        Whether the fit draws progress bars; predictions as `estimator` does.

    Attributes
    ----------
    estimator_ : E2CMClassifier or E2CMClusterer
        Fitted, with the thresholds chosen. The `labels_` of a clusterer are those of
        the samples that it was fitted to: use ``predict(X)``.

    best_threshold_ : ndarray of shape (n_exits,) or (n_exits, n_classes)
        These thresholds; infinite where an exit is closed.

    best_score_, best_cost_ : float
        Score and cost with them, on the samples held out.

    full_score_ : float
        Score on these samples if nobody leaves early.

    drop_upper_ : float or None
        The upper confidence bound of the drop with these thresholds, from the samples
        set aside, as if they had been fixed beforehand: what is promised is
        `max_drop`. None without `confidence`.

    frontier_ : dict of ndarray
        The Pareto set of cost and expected score, by rising cost: "cost",
        "expected_score" and "score", of shape (n_points,), and "threshold", of shape
        (n_points, n_exits) or (n_points, n_exits, n_classes). "score" is that of the
        labels of the samples held out, and need not rise.

    label_share_ : float
        Share of the labels in what is expected, see Notes; 1 if they count alone.

    classes_ : ndarray of shape (n_classes,)
        The labels; a clusterer has none.

    n_features_in_, feature_names_in_, stage_cost_
        Those of `estimator_`.

    Notes
    -----
    Without `y`, and for a clusterer, the answers of the full network take the place of
    labels: `max_drop` is then the share of samples that are answered differently. A
    classifier runs its network twice then, unless `cv="prefit"` or it has `memory`. A
    clusterer runs it once, and finds its clusters once, among all samples that it is
    fitted to: only centroids leave folds out, which are shuffled if `cv` is an int.

    So that thresholds do not follow the luck of the samples held out, they are found
    and compared by an expected score. A sample that leaves with the label l loses
    ``1 - (label_share_ * (y == l) + (1 - label_share_) * P(l))`` for accuracy, where P
    is what the stages together hold likely: the product of powers of the last stage's
    probabilities and of the exits' geometric mean, with the exponents that are right
    for the samples held out. The share follows from how far labels and P differ beyond
    chance, in cells of samples that an exit and the last stage answer differently, by
    James and Stein: next to 1 where P is bad, little where it is good. What k + 1 exits
    gain with different thresholds over the best one that they share is shrunk, too: of
    a gain of z standard errors the part ``1 - k / z**2`` is left, or nothing. Scores
    that are no mean over samples are their own expectation; `score`, `max_drop`,
    `confidence` and `risk` are about the labels.

    `best_score_` is of thresholds chosen among many, and so a little too good: judge
    the choice on samples of its own. With `confidence`, thresholds are found on some
    of the samples held out and tested on the others, from the most expensive to the
    cheapest up to the first that fails [2]_: is the drop significantly less than
    `max_drop`, given the samples that only the full network or only the early exits
    have right?
    At least ``log(1 - confidence) / log(1 - max_drop)`` samples must be set aside, 299
    for 0.95 and 0.01, and several times as many make good use of it.

    Memory: what the estimator's `fit` takes (features of up to scikit-learn's
    ``working_memory``, and with whitening a covariance for each fold and stage), up to
    a quarter of the working memory for scores, and some hundred bytes per sample and
    exit. Probabilities are kept of all classes where these are few; of more than 32,
    besides the labels that stages answer, of the most probable ones, and of the others
    their mean.

    References
    ----------
    .. [1] A. Görmez, E. Koyuncu, "Class Based Thresholding in Early Exit Semantic
       Segmentation Networks", 2022, arXiv 2210.15621.
    .. [2] A. N. Angelopoulos et al., "Learn then Test: Calibrating Predictive
       Algorithms to Achieve Risk Control", 2021, arXiv 2110.01052.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_e2cm import E2CMClassifier, TunedExitsCV
    >>> from sk_e2cm.testing import ToyExtractor
    >>> X, y = load_digits(return_X_y=True)
    >>> search = TunedExitsCV(E2CMClassifier(ToyExtractor()), max_drop=0.01)
    >>> search.fit(X, y).full_score_ - search.best_score_ <= 0.01
    True
    """

    _parameter_constraints = {
        "estimator": "no_validation",  # by fit, whose messages say more
        "max_cost": [Interval(Real, 0, None, closed="neither"), None],
        "max_drop": [Interval(Real, 0, None, closed="left"), None],
        "confidence": [Interval(Real, 0.5, 1, closed="left"), None],
        "scoring": [str, callable],
        "per_class": ["boolean"],
        "risk": [RiskControl, None],
        "cv": [
            "cv_object",
            StrOptions({"prefit"}),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "refit": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator: Any,
        *,
        max_cost: float | None = None,
        max_drop: float | None = None,
        confidence: float | None = None,
        scoring: Any = "accuracy",
        per_class: bool = False,
        risk: RiskControl | None = None,
        cv: Any = 5,
        refit: bool = True,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.max_cost = max_cost
        self.max_drop = max_drop
        self.confidence = confidence
        self.scoring = scoring
        self.per_class = per_class
        self.risk = risk
        self.cv = cv
        self.refit = refit
        self.random_state = random_state
        self.verbose = verbose

    # Clusters are known after the pass only, and sums over them with them.
    partial_fit = available_if(_takes_parts)(FitsInParts.partial_fit)
    merge = available_if(_takes_parts)(FitsInParts.merge)
    for_sharing = available_if(_takes_parts)(FitsInParts.for_sharing)
    finalize = available_if(_takes_parts)(FitsInParts.finalize)

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Fit the estimator and choose its thresholds.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples, as the estimator takes them. Of torch's loaders and datasets as
            many are held out as the estimator keeps, or all with ``cv="prefit"``.

        y : array-like of shape (n_samples,), default=None
            Labels. By default the answers of the full network are taken for right; of
            what comes batch by batch only with ``cv="prefit"``.
            Ignored for a clusterer, which is measured by those always.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; samples of weight 0 are ignored.

        Returns
        -------
        TunedExitsCV
            The fitted estimator.

        Raises
        ------
        ValueError
            If both or, without `risk`, neither of `max_cost` and `max_drop` are
            given, if no thresholds meet them, or if the data do not fit.

        TypeError
            If the estimator is none with early exits.

        Warns
        -----
        UserWarning
            If the thresholds chosen let nobody leave early, or if the estimator has no
            exits.
        """
        self._check_estimator()
        rng = check_random_state(self.random_state)
        takes_labels = not is_clusterer(self.estimator)
        has_labels = takes_labels and (y is not None or brings_labels(X))
        self._check_goal(sample_weight, has_labels=has_labels)
        y = y if takes_labels else None
        if is_stream(X):
            held_out, aside = self._predict_stream(Data(X, y, sample_weight))
        else:
            held_out, aside = self._predict(self._checked(X, y, sample_weight), rng)
        self._tune(held_out, aside, rng, in_parts=False)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inside = get_tags(self.estimator)
        tags.estimator_type = inside.estimator_type
        tags.classifier_tags = deepcopy(inside.classifier_tags)
        tags.input_tags = deepcopy(inside.input_tags)
        return tags
