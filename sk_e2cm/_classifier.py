"""Class means at every stage of a frozen network."""

from __future__ import annotations

from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin

from ._base import BaseE2CM
from ._classifier_fit import ClassifierFit
from ._early_exit import EarlyExitClassifierMixin
from ._extractors import Extractor
from ._utils._compat import StrOptions
from ._utils._streams import is_stream
from ._utils._validation import HasMethods


class E2CMClassifier(
    ClassifierFit, EarlyExitClassifierMixin, ClassifierMixin, BaseE2CM
):
    """Early exits by class means at every stage of a frozen network.

    Fitting runs the network once over the data, without gradients, and takes the
    mean of each class at every exit. A sample then leaves at the first exit that is
    confident of its class; what comes after is not computed for it.

    Parameters
    ----------
    extractor : extractor, default=None
        A frozen network in stages, such as `TorchExtractor`. By default the
        features themselves are the only stage: a nearest class mean classifier.

    metric : {"euclidean", "mahalanobis"}, default="mahalanobis"
        The distance to the class means. "mahalanobis" whitens by the pooled, shrunk
        covariance within the classes, which is linear discriminant analysis: far more
        accurate than "euclidean", the paper's, at about the same cost. It takes ten
        distinct samples for each class, on average, and at most 4,096 features; all
        stages of a fit on fewer samples, and stages with more features, have the
        Euclidean distance instead, and `metric_reason_` says so.

    pooling : {"auto", "none", "second_order"}, int or callable, default="auto"
        How a feature map of shape (n, channels, height, width) becomes one row per
        sample. An int averages over a grid of that many cells along each axis.
        "auto" takes the largest grid g <= 4 with channels * g * g <= 1024, else 1.
        "none" flattens the map, as in the paper. "second_order" takes means and
        maxima over grids, and the mean products of pairs of channels (of 32 mixtures
        where there are more): about 1,000 features, or as many as there are channels.
        Its multiply-adds are counted; with ``metric="euclidean"`` it is of no use.
        A callable takes the stage's output
        and returns an array or tensor of shape (n, n_features). Which axis holds the
        channels follows from the layers of a `TorchExtractor`. Where nothing tells,
        `fit` warns and reads three axes as (n, length, channels), a map whose first two
        sides are equal, unlike the third, as (n, side, side, channels), and others as
        (n, channels, ...). Outputs with two axes are used as they are.

    threshold : float or array-like, default=0.9
        A sample exits where its largest probability reaches the threshold. One
        number, one per exit, or one per exit and class, shape (n_exits, n_classes).
        ``numpy.inf`` closes an exit, and a closed exit costs nothing. Read at each
        prediction, so it may be changed on a fitted estimator.

    calibration : {"temperature", "dirichlet"} or None, default="temperature"
        None leaves probabilities as they are, as in the paper. "temperature" fits one
        temperature per stage by cross-fitting, on data that the class means have not
        seen: a threshold of 0.9 then asks for at least 90% at every exit. "dirichlet"
        goes on to fit a regression of the classes on the log probabilities [2]_, in the
        same way: more accurate, for n_classes**2 more multiply-adds, and slow to fit
        for hundreds of classes.

    final : {"auto", "network", "class_means"} or classifier, default="auto"
        What predicts samples that took no exit: the network's own output, the class
        means of the last stage, or a scikit-learn classifier fitted on its features
        (its multiply-adds are counted if it is linear). "auto" is the network if it
        has an output for each class and is no less accurate on the data of the fit than
        the class means, out of fold where exits are calibrated or whitened; if it has
        the outputs and is less accurate, a warning says by how much.

    head_classes : array-like of shape (n_outputs,), default=None
        The label that each output of the network stands for; those that do not occur in
        `y` are left out. By default the outputs are the sorted labels of `y` if they
        are as many. If they are more, whole numbers from 0 on in `y` are numbers of
        outputs. A single output is the logit, or the probability, of the second of two
        classes: pass both, if at all. Required for text labels if ``final="network"``.

    shrinkage : {"ledoit_wolf", "oas"} or float, default="ledoit_wolf"
        For ``metric="mahalanobis"``: the share, from 0 to 1, of the identity in the
        covariance of the features, which are scaled to unit variance within the
        classes; or the formula of `sklearn.covariance` that finds it.

    head : "class_means", classifier or list, default="class_means"
        What stands at an exit. A scikit-learn classifier with ``predict_proba`` is
        fitted to the features of each exit, scaled to mean 0 and variance 1, from the
        same single pass of the network. Linear ones and
        `sklearn.neural_network.MLPClassifier` then run as torch modules, as class means
        do; others run as they are, and their multiply-adds are not counted. Of a list,
        such as ``["class_means", LogisticRegression()]``, the log probabilities are
        added up, with weights fitted out of fold. `calibration` comes after any of
        them. The last stage is `final`'s.

    carry : {0, 1, 2}, default=0
        How many exits an exit remembers: it sees the features of so many exits before
        it, too, in one covariance, and more of the samples that these were unsure of.
        More accurate, above all with ``pooling="second_order"``, and slower to fit. For
        ``metric="mahalanobis"`` and features pooled over grids. The pooling of a closed
        exit runs, and is paid for, if an open one carries its features.

    cost_unit : {"macs", "seconds"}, default="macs"
        What costs are fractions of: the network's multiply-adds, or its time. For
        "seconds" `fit` measures, for up to 30 seconds or a tenth of its own time, what
        stages and exits take in batches of `batch_size` on `device`; 1 is then the time
        of the network as it was given, so that the cost of the last stage may be below
        1. `seconds_` holds the figures, and `measure_seconds` measures anew.

    batch_size : int, default=128
        Samples run through the network at once.

    device : str, torch.device or None, default=None
        Where to run. None is where the extractor's weights are.

    n_jobs : int or None, default=None
        Workers of joblib among which `fit` splits its pass over an array. None is 1,
        unless `joblib.parallel_config` says more: with "dask" the workers may be those
        of a cluster. Results are the same to rounding. What comes batch by batch is run
        by one process; its loader may have workers of its own.

    memory : str, path, joblib.Memory or None, default=None
        Where to cache the features of every stage, so that a search over thresholds
        runs the network once per fold. Used by `fit`, `score`, `exit_proba` and the
        scorers of `sk_e2cm.metrics`, never by predictions. A `pooling` function is
        told from others by its code, not by what that calls.

    verbose : int, default=0
        Whether fits, predictions and passes over all stages draw a progress bar, with
        samples per second and the time left: tqdm's where that is installed.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.

    class_means_ : list of ndarray of shape (n_classes, n_features)
        For each stage, the last included, those carried before its own; None where
        `head` has no class means.

    distance_scale_ : list of ndarray of shape (n_classes,)
        For each stage, the mean distance of all training samples to each class mean.
        Whitened distances have no such scale: it is 1.

    metric_ : list of str
        For each stage, the metric used; None where `head` has no class means.

    metric_reason_ : str or None
        Why some stages have another than `metric`; None if none have.

    temperature_ : ndarray of shape (n_exits + 1,)
        For each stage; 1 is uncalibrated.

    stage_cost_ : ndarray of shape (n_exits + 1,)
        Cost of exiting at each stage, in fractions of the network's multiply-adds, or
        of its time, up to its last stage. Those of the open exits are included, so the
        last may exceed 1.

    seconds_ : Seconds or None
        What stages and exits take; ``print(clf.seconds_)`` draws the table. None
        with ``cost_unit="macs"``, until `measure_seconds` is called.

    final_ : {"network", "class_means", "classifier"}
        What predicts at the last stage.

    network_ : MultiExitNetwork
        The frozen stages with a head for each, the labels and the costs: what
        predictions run.

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
    With c_k the mean of class k at one stage, S the covariance within the classes and
    pi_k their shares, the probability of class k is
    softmax_k(beta (log pi_k - (f(x) - c_k)' S^-1 (f(x) - c_k) / 2)); "temperature"
    fits beta, which is 1 otherwise. Under the Euclidean metric it is
    softmax_k(-beta d_k(x) / s_k), with d_k(x) = ||f(x) - c_k|| and s_k the mean of d_k
    over all training samples. The paper's method [1]_, exactly, is
    ``E2CMClassifier(extractor, metric="euclidean", calibration=None, pooling="none")``.

    The class means may come from the data that the network was trained on.
    Thresholds, temperatures and reported accuracies should not: a network is
    optimistic there.

    Where the features of all stages exceed scikit-learn's ``working_memory``, the
    scales s_k, the calibration, the intensity of "ledoit_wolf" and a classifier given
    as `final` are fitted on a uniform subset of the samples; class means and
    covariances always on all of them. With `carry` or another `head` the features of
    all samples are kept: where they exceed it, in a temporary file. Where sixteen times
    the scores of all samples held out, 8 bytes for each class, exceed it, exits are
    calibrated on a uniform subset of these, a thousand at least: at 1 GiB, of more than
    8,400 samples of 1,000 classes.

    With `carry`, exits are fitted one after the other. A sample counts in the class
    means, class shares and covariance of an exit as the square root of 1.05 - p, where
    p is the out-of-fold probability of its class at the exit before.

    References
    ----------
    .. [1] A. Görmez, V. R. Dasari, E. Koyuncu, "E2CM: Early Exit via Class Means for
       Efficient Supervised and Unsupervised Learning", IJCNN 2022, arXiv 2103.01148.
    .. [2] M. Kull et al., "Beyond temperature scaling: Obtaining well-calibrated
       multiclass probabilities with Dirichlet calibration", NeurIPS 2019,
       arXiv 1910.12656.

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
        **BaseE2CM._parameter_constraints,
        "final": [
            StrOptions({"auto", "network", "class_means"}),
            HasMethods(["fit", "predict"]),
        ],
        "head_classes": ["array-like", None],
        "head": "no_validation",  # by fit, whose messages say more
    }

    def __init__(
        self,
        extractor: Extractor | None = None,
        *,
        metric: str = "mahalanobis",
        pooling: Any = "auto",
        threshold: ArrayLike = 0.9,
        calibration: str | None = "temperature",
        final: Any = "auto",
        head_classes: ArrayLike | None = None,
        shrinkage: str | float = "ledoit_wolf",
        head: Any = "class_means",
        carry: int = 0,
        cost_unit: str = "macs",
        batch_size: int = 128,
        device: str | torch.device | None = None,
        n_jobs: int | None = None,
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
        self.shrinkage = shrinkage
        self.head = head
        self.carry = carry
        self.cost_unit = cost_unit
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs
        self.memory = memory
        self.verbose = verbose

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Take the class means of every stage, in one pass over the data.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), DataLoader or Dataset
            Samples, each of the shape that the extractor takes; of torch's loaders and
            datasets batches of (X, y) or (X, y, weight). Arrays of zarr, h5py and dask
            are read in slices. Of these, and of loaders, only as many samples are kept
            as for `partial_fit`.

        y : array-like of shape (n_samples,), default=None
            Labels. None where they come with X.

        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative; samples of weight 0 are ignored.

        Returns
        -------
        E2CMClassifier
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data, the parameters and the network do not fit together. What
            was fitted before is left as it was.

        Warns
        -----
        UserWarning
            If a class has only one sample, which calibration cannot learn from.
        """
        if is_stream(X):
            self._fit_stream(X, y, sample_weight)
        else:
            self._cross_fit(X, y, sample_weight)
        self._warn_if_nobody_leaves()
        return self
