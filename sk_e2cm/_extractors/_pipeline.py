"""Fitted scikit-learn transformers as stages."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from .._compat import _safe_indexing
from .._hashing import content_hash
from ._protocol import Extractor


class PipelineExtractor(Extractor):
    """Fitted scikit-learn transformers, cheap ones first, as stages.

    The transformers are copied; the originals may be fitted anew.

    Parameters
    ----------
    transformers : Pipeline, FeatureUnion or list of transformers
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
        The names of the steps, or the names of the classes.

    costs : ndarray of shape (n_transformers,)
        As passed.

    fingerprint : str
        Names the content: the same in every process.

    Raises
    ------
    NotFittedError
        If a transformer is not fitted.

    ValueError
        If `costs` are not one number for each transformer.

    See Also
    --------
    TorchExtractor : A torch network, cut into stages.

    Notes
    -----
    Estimators pass on arrays. Where the first transformer was fitted on a data frame,
    its columns get their names back.

    Each row must be transformed independently of the others, as scikit-learn's
    transformers do.

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

    @property
    def stage_names(self) -> tuple[str, ...]:
        return self._names

    @cached_property
    def fingerprint(self) -> str:
        return content_hash((type(self), self.transformers, self._side_by_side))

    def begin(self, X: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        """Return the state before the first stage.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A batch.

        Returns
        -------
        state
            What the next transformer takes, and the features so far.
        """
        take_X = self.transformers if self._side_by_side else self.transformers[:1]
        return _with_names(X, take_X), np.empty((len(X), 0))

    def advance(
        self, state: tuple[Any, NDArray[Any]], stage: int
    ) -> tuple[tuple[Any, NDArray[Any]], NDArray[Any]]:
        """Compute one stage.

        Parameters
        ----------
        state : state
            As `begin`, `keep` or the stage before returned it.

        stage : int
            From 0 to the number of exits.

        Returns
        -------
        state : state
            The state after the stage.

        output : ndarray of shape (n_samples, n_features)
            The features.
        """
        X, so_far = state
        transformed = self.transformers[stage].transform(X)
        features = _dense(transformed)
        if self._side_by_side:
            features = np.hstack([so_far, features])
            return (X, features), features
        return (transformed, so_far), features

    def keep(
        self, state: tuple[Any, NDArray[Any]], rows: NDArray[np.intp]
    ) -> tuple[Any, NDArray[Any]]:
        """Reduce a state to some of its rows.

        Parameters
        ----------
        state : state
            As `advance` returned it.

        rows : ndarray of int
            The rows to keep, in this order.

        Returns
        -------
        state
            With ``len(rows)`` rows.
        """
        X, so_far = state
        return _safe_indexing(X, rows), so_far[rows]

    def macs(self, input_shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the cost from the input to the end of each stage.

        Parameters
        ----------
        input_shape : tuple of int
            Not used: the costs are those of `costs`.

        Returns
        -------
        ndarray of shape (n_stages,)
            Cumulative, for one sample.
        """
        return self.costs.cumsum()

    def __repr__(self) -> str:
        costs = self.costs.tolist()
        return f"{type(self).__name__}({list(self.stage_names)}, costs={costs})"


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
        named = [(type(step).__name__.lower(), step) for step in transformers]
    if not named:
        raise ValueError("PipelineExtractor needs at least one transformer.")
    for name, step in named:
        _check_transformer(name, step)
    return list(named)


def _check_transformer(name: str, step: Any) -> None:
    if not hasattr(step, "transform"):
        raise TypeError(
            f"Step {name!r} is no transformer: {step!r}. A final estimator is left "
            "out: pipeline[:-1]."
        )
    try:
        check_is_fitted(step)
    except NotFittedError as error:
        raise NotFittedError(
            f"Step {name!r} is not fitted: {step!r}. Fit it before it is made a stage."
        ) from error


def _check_costs(costs: ArrayLike, names: Sequence[str]) -> NDArray[np.float64]:
    checked = np.array(costs, dtype=np.float64)
    if (
        checked.shape != (len(names),)
        or not (np.isfinite(checked) & (checked >= 0)).all()
    ):
        raise ValueError(
            f"costs must be {len(names)} numbers, none negative, one for each of "
            f"{', '.join(names)}; got {costs!r}."
        )
    return checked


def _with_names(X: Any, transformers: Sequence[Any]) -> Any:
    """Make a data frame of X if that is what a transformer was fitted on."""
    for transformer in transformers:
        if hasattr(transformer, "feature_names_in_") and not hasattr(X, "columns"):
            import pandas as pd  # there, since the transformer has met a data frame

            return pd.DataFrame(X, columns=transformer.feature_names_in_)
    return X


def _dense(transformed: Any) -> NDArray[Any]:
    return np.asarray(
        transformed.toarray() if sparse.issparse(transformed) else transformed
    )
