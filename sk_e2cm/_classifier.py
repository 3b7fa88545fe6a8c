"""Class means at every stage of a frozen network."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from ._compat import (
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
)
from ._early_exit import EarlyExitMixin
from ._exits import check_thresholds
from ._extractors import Extractor
from ._features import RawFeatures, row_hashes
from ._final import choose_final
from ._training import fit_exits, run_training_pass
from ._validation import check_classes, check_macs, check_training_data


class E2CMClassifier(EarlyExitMixin, ClassifierMixin, BaseEstimator):
    """Early exits by class means at every stage of a frozen network.

    Fitting runs the network once over the data, without gradients, and takes the
    mean of each class at every exit. A sample then leaves at the first exit that is
    sure of its class; what comes after is not computed for it.

    Parameters
    ----------
    extractor : extractor, default=None
        A frozen network in stages, such as `TorchExtractor`. By default the
        features themselves are the only stage: a nearest class mean classifier.

    metric : {"euclidean"}, default="euclidean"
        The distance to the class means, as in the paper.

    pooling : {"auto", "none"}, int or callable, default="auto"
        How a feature map of shape (n, channels, height, width) becomes one row per
        sample: averaged over a grid of this many cells along each axis. "auto"
        takes the largest grid g <= 4 with channels * g * g <= 1024, else 1. "none"
        flattens the map, as in the paper. A callable takes a stage's output and
        returns an array or tensor of shape (n, n_features). Outputs of shape
        (n, length, channels) are averaged along their length likewise; outputs with
        two axes are taken as they are.

    threshold : float or array-like, default=0.9
        A sample leaves where the largest probability reaches it. One number, one
        for each exit, or one for each exit and class, shape (n_exits, n_classes).
        ``numpy.inf`` closes an exit, and a closed exit costs nothing. Read anew at
        every prediction.

    calibration : {"temperature"} or None, default="temperature"
        None is the paper's probability. "temperature" fits one temperature per
        stage by cross-fitting, to data that the class means have not seen; a
        threshold of 0.9 then means 90% sure at every exit.

    final : {"auto", "network", "class_means"} or classifier, default="auto"
        Who heads for those who never left: the network's own output, the class
        means of the last stage, or a scikit-learn classifier fitted on its
        features. "auto" is the network if it has one output for each class and is
        no less accurate on the data of the fit than the class means.

    head_classes : array-like of shape (n_outputs,), default=None
        The label that each output of the network stands for. By default the
        outputs are the sorted labels of `y`; with text labels ``final="network"``
        asks for it.

    batch_size : int, default=128
        Samples run through the network at once.

    device : str, torch.device or None, default=None
        Where to run. None is where the extractor's weights are.

    memory : str, joblib.Memory or None, default=None
        Where to cache the features of every stage. `fit`, `score`, `exit_proba` and
        the scorers of `sk_e2cm.metrics` use it, so that a search over thresholds
        runs the network once for each fold. Predictions never do.

    verbose : int, default=0
        Whether `fit` prints its progress.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.

    class_means_ : list of ndarray of shape (n_classes, n_features)
        For each stage, the last included.

    distance_scale_ : list of ndarray of shape (n_classes,)
        For each stage, the mean distance of all training samples to each class mean.

    temperature_ : ndarray of shape (n_exits + 1,)
        For each stage; 1 is the paper's.

    stage_cost_ : ndarray of shape (n_exits + 1,)
        What leaving at each stage costs, in fractions of the network's multiply-adds
        up to its last stage. The open exits' own arithmetic is counted, so the last
        may exceed 1.

    final_ : {"network", "class_means", "classifier"}
        Who heads at the last stage.

    extractor_ : extractor
        The extractor used.

    input_shape_ : tuple of int
        The shape of one sample.

    n_features_in_ : int
        The length of the first axis of a sample.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    TorchExtractor : Cuts a network into stages.
    sk_e2cm.metrics.accuracy_cost_scorer : Scores for choosing a threshold.

    Notes
    -----
    With c_k the mean of class k at one stage, d_k(x) = ||f(x) - c_k|| and s_k the
    mean of d_k over all training samples, the probability of class k is
    softmax_k(-beta d_k(x) / s_k). beta = 1 is the paper's [1]_; "temperature"
    fits it.

    The class means may come from the data that the network was trained on.
    Thresholds and reported accuracies should not: a network is optimistic there.
    Where the features of all stages exceed scikit-learn's ``working_memory``, the
    scales s_k, the temperatures and a classifier given as `final` are fitted on a
    uniform subset; the class means always on all samples.

    References
    ----------
    .. [1] A. Görmez, V. R. Dasari, E. Koyuncu, "E2CM: Early Exit via Class Means for
       Efficient Supervised and Unsupervised Learning", IJCNN 2022, arXiv 2103.01148.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from sk_e2cm import E2CMClassifier, TorchExtractor
    >>> X, y = load_iris(return_X_y=True)
    >>> _ = torch.manual_seed(0)
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    >>> clf = E2CMClassifier(TorchExtractor(network, exits=["1"])).fit(X, y)
    >>> clf.predict(X[:3])
    array([0, 0, 0])
    >>> clf.predict_exit(X[:3])
    array([0, 0, 0])
    """

    _parameter_constraints = {
        "extractor": [HasMethods(["begin", "advance", "keep", "macs"]), None],
        "metric": [StrOptions({"euclidean"})],
        "pooling": [
            StrOptions({"auto", "none"}),
            Interval(Integral, 1, None, closed="left"),
            callable,
        ],
        "threshold": [Real, "array-like"],
        "calibration": [StrOptions({"temperature"}), None],
        "final": [
            StrOptions({"auto", "network", "class_means"}),
            HasMethods(["fit", "predict"]),
        ],
        "head_classes": ["array-like", None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device, None],
        "memory": [str, PathLike, HasMethods("cache"), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        extractor: Extractor | None = None,
        *,
        metric: str = "euclidean",
        pooling: Any = "auto",
        threshold: ArrayLike = 0.9,
        calibration: str | None = "temperature",
        final: Any = "auto",
        head_classes: ArrayLike | None = None,
        batch_size: int = 128,
        device: str | torch.device | None = None,
        memory: Any = None,
        verbose: int = 0,
    ) -> None:
        self.extractor = extractor
        self.metric = metric
        self.pooling = pooling
        self.threshold = threshold
        self.calibration = calibration
        self.final = final
        self.head_classes = head_classes
        self.batch_size = batch_size
        self.device = device
        self.memory = memory
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Take the class means of every stage, in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples, each of the shape that the extractor takes.

        y : array-like of shape (n_samples,)
            Labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative. A sample of weight 0 is as good as absent.

        Returns
        -------
        E2CMClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, the parameters and the network do not fit together. What
            was fitted before is left as it was.
        """
        valid_X, valid_y, weight = check_training_data(self, X, y, sample_weight)
        classes, codes = np.unique(valid_y, return_inverse=True)
        hashes = row_hashes(valid_X)
        check_classes(classes, codes, hashes, weight, self.calibration)
        extractor: Extractor = self.extractor or RawFeatures()
        n_exits = len(extractor.stage_names) - 1
        check_thresholds(self.threshold, n_exits, len(classes))

        run = run_training_pass(
            self._full_pass(extractor),
            valid_X,
            hashes,
            codes,
            weight,
            verbose=self.verbose,
        )
        exits = fit_exits(run, calibrate=self.calibration is not None)
        macs = check_macs(extractor.macs(valid_X.shape[1:]), n_exits + 1)
        # Raw features that happen to be as many as the classes are no head.
        no_head = self.extractor is None and self.final == "auto"
        final_name, final = choose_final(
            "class_means" if no_head else self.final,
            self.head_classes,
            exits[-1],
            run,
            classes,
        )

        # From here on nothing fails, so that a failed fit leaves no trace.
        validate_data(self, X, skip_check_array=True)
        self.extractor_ = extractor
        self.input_shape_ = valid_X.shape[1:]
        self.classes_ = self._labels = classes
        self.class_means_ = [exit_.means for exit_ in exits]
        self.distance_scale_ = [exit_.scale for exit_ in exits]
        self.temperature_ = np.array([1 / exit_.inverse_temperature for exit_ in exits])
        self.final_ = final_name
        self._heads = [*exits[:-1], final]
        self._macs = macs
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probabilities with which each sample left.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        _, proba = self._leave(X)
        return proba

    def staged_predict_proba(self, X: ArrayLike) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities that are known after each stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        Yields
        ------
        ndarray of shape (n_samples, n_classes)
            See `staged_predict`. The last equals ``predict_proba(X)``.
        """
        yield from self._staged(X)

    def score(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return the accuracy of ``predict(X)``, from cached features if there are.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Samples of the shape that was fitted.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            Accuracy.
        """
        if self.memory is None:
            return super().score(X, y, sample_weight)
        proba = self.exit_proba(X)
        left_with = proba[np.arange(len(proba)), self._exits_from(proba)]
        labels = self._labels[left_with.argmax(axis=1)]
        return float(accuracy_score(y, labels, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags
