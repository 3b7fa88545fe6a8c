"""Fitted scikit-learn transformers as stages."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted

from .._utils._arrays import as_numbers
from .._utils._compat import _safe_indexing
from .._utils._hashing import content_hash
from ._protocol import Extractor


class PipelineExtractor(Extractor):
    """Fitted scikit-learn transformers, cheap ones first, as stages.

    The transformers are copied; the originals may be fitted anew.

    Parameters
    ----------
    transformers : Pipeline, FeatureUnion, transformer or list of transformers
        Fitted. In a Pipeline, or a list, each takes what the one before it returned.
        In a FeatureUnion each takes X, and the features of a stage are those of all
        transformers so far, side by side. There is one stage per transformer.

    costs : array-like of shape (n_transformers,)
        What each transformer costs for one sample, in multiply-adds, as the exits'
        own arithmetic is counted. Nanoseconds are a fair substitute.

    Attributes
    ----------
    transformers : tuple of transformers
        One per stage.

    stage_names : tuple of str
        The names of the steps, as in `make_pipeline` for a list.

    costs : ndarray of shape (n_transformers,)
        As passed.

    feature_names_in_ : ndarray of str
        The columns of the data frame that the transformers were fitted on, if it was
        one. Estimators refuse others.

    fingerprint : str
        Names the content; copies in other processes have the same.

    Raises
    ------
    NotFittedError
        If a transformer is not fitted.

    TypeError
        If a step is no transformer.

    ValueError
        If there are no transformers, if `costs` are not one number for each, or if a
        FeatureUnion has ``transformer_weights``.

    See Also
    --------
    TorchExtractor : A torch network, cut into stages.

    Notes
    -----
    Estimators pass on arrays of finite numbers, so what reads text or fills in
    missing values has to come before. Where the transformers were fitted on a data
    frame, the columns get their names back.

    A transformer must treat each row by itself. Nearly all do; one that looks at the
    whole batch, to scale it for instance, is refused when an estimator is fitted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.kernel_approximation import Nystroem
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_e2cm import E2CMClassifier, PipelineExtractor
    >>> X, y = load_iris(return_X_y=True)
    >>> pipeline = make_pipeline(StandardScaler(), Nystroem(random_state=0)).fit(X)
    >>> extractor = PipelineExtractor(pipeline, costs=[4, 10_400])
    >>> clf = E2CMClassifier(extractor).fit(X, y)
    >>> clf.predict_exit(X[:3])
    array([0, 0, 0])
    """

    def __init__(
        self,
        transformers: Pipeline | FeatureUnion | Sequence[Any],
        *,
        costs: ArrayLike,
    ) -> None:
        steps = _steps(transformers)
        self.transformers = tuple(copy.deepcopy(step) for _, step in steps)
        self._names = tuple(name for name, _ in steps)
        self.costs = _check_costs(costs, self._names)
        self._side_by_side = isinstance(transformers, FeatureUnion)
        # At once, since some transformers change as they are used: KD-trees for one.
        self.fingerprint = content_hash(
            (type(self), self.transformers, self._side_by_side)
        )

    @property
    def stage_names(self) -> tuple[str, ...]:
        return self._names

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        takers = self.transformers if self._side_by_side else self.transformers[:1]
        for transformer in takers:
            if hasattr(transformer, "feature_names_in_"):
                return np.asarray(transformer.feature_names_in_)
        raise AttributeError("The transformers were not fitted on a data frame.")

    def begin(self, X: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        # A copy: transformers with copy=False write to what they take.
        X = copy.copy(X)
        names = getattr(self, "feature_names_in_", np.empty(0))
        # Where the columns are too few or too many, the transformer says so.
        if np.shape(X)[1:] == names.shape and not hasattr(X, "columns"):
            import pandas as pd  # there, since a transformer has met a data frame

            X = pd.DataFrame(X, columns=names)
        return X, np.empty((np.shape(X)[0], 0), dtype=bool)

    def advance(
        self, state: tuple[Any, NDArray[Any]], stage: int
    ) -> tuple[tuple[Any, NDArray[Any]], NDArray[Any]]:
        X, so_far = state
        transformed = self.transformers[stage].transform(X)
        features = transformed
        if sparse.issparse(transformed):
            transformed = transformed.tocsr()  # other formats cannot drop rows
            features = transformed.toarray()
        if self._side_by_side:
            features = np.hstack([so_far, features])
            return (X, features), features
        return (transformed, so_far), np.asarray(features)

    def keep(
        self, state: tuple[Any, NDArray[Any]], rows: NDArray[np.intp]
    ) -> tuple[Any, NDArray[Any]]:
        X, so_far = state
        return _safe_indexing(X, rows), so_far[rows]

    def join(
        self, states: Sequence[tuple[Any, NDArray[Any]]]
    ) -> tuple[Any, NDArray[Any]]:
        """Join the states of several batches after the same stage.

        Parameters
        ----------
        states : sequence of state
            As `advance` or `keep` returned them.

        Returns
        -------
        state
            With the rows of all, in this order.
        """
        Xs, so_far = zip(*states, strict=True)
        return _stacked(Xs), np.concatenate(so_far)

    def macs(self, input_shape: tuple[int, ...]) -> NDArray[np.float64]:
        return self.costs.cumsum()

    def __repr__(self) -> str:
        kind = "FeatureUnion" if self._side_by_side else "Pipeline"
        steps = list(zip(self._names, self.transformers, strict=True))
        return f"{type(self).__name__}({kind}({steps}), costs={self.costs.tolist()})"


def _stacked(Xs: Sequence[Any]) -> Any:
    """Put arrays, sparse matrices or data frames one below the other."""
    if sparse.issparse(Xs[0]):
        return sparse.vstack(Xs, format="csr")
    if hasattr(Xs[0], "iloc"):
        import pandas as pd  # there, since these are its data frames

        return pd.concat(Xs, ignore_index=True)
    if hasattr(Xs[0], "vstack"):  # of Polars
        return reduce(lambda above, below: above.vstack(below), Xs)
    return np.concatenate(Xs)


def _steps(transformers: Any) -> list[tuple[str, Any]]:
    """Return the names and transformers of the stages."""
    if isinstance(transformers, FeatureUnion):
        if transformers.transformer_weights:
            raise ValueError(
                "transformer_weights are not supported. Scale within the transformers."
            )
        named = transformers.transformer_list
    elif isinstance(transformers, Pipeline):
        named = transformers.steps
    else:
        alone = not isinstance(transformers, Iterable) or hasattr(transformers, "dtype")
        named = make_pipeline(*[transformers] if alone else transformers).steps
    if not named:
        raise ValueError("PipelineExtractor needs at least one transformer.")
    for name, step in named:
        _check_transformer(name, step)
    return list(named)


def _check_transformer(name: str, step: Any) -> None:
    if not hasattr(step, "transform"):
        final = hasattr(step, "predict")
        hint = (
            "Leave a final estimator out: pipeline[:-1]." if final else "Leave it out."
        )
        raise TypeError(f"Step {name!r} is no transformer: {step!r}. {hint}")
    try:
        check_is_fitted(step)
    except NotFittedError as error:
        raise NotFittedError(
            f"Step {name!r} is not fitted: {step!r}. Fit it before it is made a stage."
        ) from error


def _check_costs(costs: ArrayLike, names: Sequence[str]) -> NDArray[np.float64]:
    try:
        checked = as_numbers(costs, "costs").astype(np.float64)
    except (TypeError, ValueError):
        checked = np.empty(0)
    valid = np.isfinite(checked) & (checked >= 0)
    if checked.shape != (len(names),) or not valid.all():
        raise ValueError(
            "costs must have one number, not negative, for each of "
            f"{', '.join(names)}; got {costs!r}."
        )
    checked.flags.writeable = False
    return checked
