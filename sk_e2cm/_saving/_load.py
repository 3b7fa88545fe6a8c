"""Loading what was saved."""

from __future__ import annotations

from os import PathLike
from typing import Any

from ._estimators import decode_estimator
from ._file import read, reading
from ._network import decode_extractor
from ._tensors import TensorReader
from ._values import Decoder


def load(path: str | PathLike[str], network: Any = None) -> Any:
    """Load a fitted estimator that `save` has written.

    Nothing in the file is run, imported or unpickled: it may come from anywhere.

    Parameters
    ----------
    path : str or path-like
        The file.

    network : torch.nn.Module or sequence of torch.nn.Module, default=None
        The network that the extractor was made of, with whatever weights: it is copied,
        and the copy gets those of the file, in their precision and on the device of the
        network given. For `TorchExtractor.from_modules` the sequence of modules. None
        for an estimator over plain features.

    Returns
    -------
    E2CMClassifier, E2CMClusterer or TunedExitsCV
        It answers as the one that was saved, bit for bit on the same machine. Its
        `memory` is None.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    ValueError
        If it is not one of `save`, is damaged, or was written by a newer version; if
        `network` differs from the one that was saved, by what; if it is missing, or not
        needed.

    TypeError
        If `network` is no module.

    ImportError
        Without the package safetensors.

    See Also
    --------
    save : Write the file, and what is compared.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from sklearn.datasets import load_iris
    >>> from sk_e2cm import E2CMClassifier, TorchExtractor, load, save
    >>> def make_network():
    ...     return torch.nn.Sequential(
    ...         torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = E2CMClassifier(TorchExtractor(make_network(), exits=["1"])).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(clf, Path(folder) / "iris.safetensors")
    ...     loaded = load(Path(folder) / "iris.safetensors", make_network())
    >>> bool((loaded.predict_proba(X) == clf.predict_proba(X)).all())
    True
    """
    header, tensors = read(path)
    reader = TensorReader(tensors)
    with reading(path):
        of_extractor, of_estimator = header["extractor"], dict(header["estimator"])
        of_extractor = None if of_extractor is None else dict(of_extractor)
    extractor = decode_extractor(of_extractor, network, reader, path)
    with reading(path):
        return decode_estimator(of_estimator, extractor, Decoder(reader))
