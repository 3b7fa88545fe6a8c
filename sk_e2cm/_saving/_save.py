"""Saving fitted estimators."""

from __future__ import annotations

import platform
from os import PathLike
from typing import Any

import sklearn
import torch

from .._version import __version__
from ._estimators import encode_estimator, fitted_inside
from ._file import write
from ._network import encode_extractor
from ._tensors import TensorWriter
from ._values import Encoder


def save(estimator: Any, path: str | PathLike[str]) -> None:
    """Save a fitted estimator, its network included, without pickle.

    The file holds numbers and texts, and no code: whoever loads it needs the class of
    the network, and need not trust the file.

    Parameters
    ----------
    estimator : E2CMClassifier, E2CMClusterer or TunedExitsCV
        Fitted, over a `TorchExtractor` or over plain features. After `partial_fit` it
        is finished first; its statistics are not saved, and neither is `memory`.

    path : str or path-like
        The file. What it held before stays until all is written.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.

    TypeError
        If it is none of these, or has what only code could make again: an extractor of
        another kind, a function as `pooling` or `scoring`, a scikit-learn estimator
        that is neither linear nor k-means, a random state.

    ValueError
        If `path` is a folder, or if the network is quantised or has weights that are no
        plain numbers.

    FileNotFoundError
        If there is no such folder.

    ImportError
        Without the package safetensors.

    See Also
    --------
    load : Load what was saved.

    Notes
    -----
    The file is one of safetensors, with the weights of the network and of every head.
    A header in JSON has the parameters, the classes, the exits, their costs, and what
    the network is but for its weights: the names and shapes of its tensors, which of
    them are tied, the plain attributes of its modules, the operations that it computes,
    and digests of the code of its classes and of what that code refers to. Of installed
    packages, torch among them, classes and functions are named, and their code is not
    compared; of others the syntax of the source counts, without comments, docstrings
    and annotations, so that it is the same in every version of Python. ``__init__`` is
    left out, since what it makes is compared. Code without a source, such as that typed
    at a prompt, is known by its bytecode, to one version of Python only.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_iris
    >>> from sk_e2cm import E2CMClassifier, load, save
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = E2CMClassifier().fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(clf, Path(folder) / "iris.safetensors")
    ...     loaded = load(Path(folder) / "iris.safetensors")
    >>> bool((loaded.predict_proba(X) == clf.predict_proba(X)).all())
    True
    """
    inside = fitted_inside(estimator)
    writer = TensorWriter()
    # What users have passed is refused before what was made of it.
    encoded = encode_estimator(estimator, Encoder(writer))
    header = {
        "version": __version__,
        "written_by": {
            "python": platform.python_version(),
            "sklearn": sklearn.__version__,
            "torch": torch.__version__,
        },
        "extractor": encode_extractor(inside.network_.extractor, writer),
        "estimator": encoded,
    }
    write(path, header, writer.tensors)
