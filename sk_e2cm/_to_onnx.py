"""Fitted estimators as ONNX files that leave early."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import torch
from sklearn.pipeline import Pipeline

from ._delegation import with_exits
from ._extractors import TorchExtractor
from ._extractors._torch import is_quantized
from ._multi_exit._network import MultiExitNetwork
from ._version import __version__

_TYPES = (torch.float32, torch.float64, torch.int64)


def to_onnx(
    fitted: Any,
    path: str | PathLike[str],
    *,
    single_file: bool = True,
    only_open: bool = False,
    opset: int = 18,
) -> None:
    """Write a fitted estimator to ONNX: what has left is not computed further.

    Needs the packages onnx and onnxscript: ``pip install "sk-e2cm[onnx]"``. With torch
    below 2.10 torch.onnx refuses some networks and poolings.

    Parameters
    ----------
    fitted : E2CMClassifier, E2CMClusterer or TunedExitsCV
        Over a `TorchExtractor`.

    path : str or path
        Of the file, which is replaced if it is there, or of a folder that is not yet.

    single_file : bool, default=True
        One file, in which later stages lie inside branches of earlier ones; or a folder
        with a file for each stage, for accelerators that run both branches of an
        ``If``, and for stages on several machines: see
        `sk_e2cm.onnx_exits.OnnxExits`.

    only_open : bool, default=False
        Leave out exits that are closed, all of whose thresholds are infinite: stages
        between two others run as one, which is quicker, and no thresholds can open
        them again. The numbers of the stages stay.

    opset : int, default=18
        The version of ONNX's operations, at least 18.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.

    TypeError
        If it is none of these, or does not run a `TorchExtractor`.

    ValueError
        If `opset` is too old or too new, or if a part cannot be written: a function as
        `pooling`, a classifier as `head` that is neither linear nor a perceptron, one
        as `final` that skl2onnx does not know either, another clusterer than k-means,
        weights of half precision, convolutions in double precision, quantised layers,
        and what torch.onnx does not know. The part is named.

    FileExistsError, FileNotFoundError, IsADirectoryError
        If a folder is there already, is lacking, or is given in place of a file.

    ImportError
        If a package is lacking.

    Notes
    -----
    The file takes ``X``, any number of samples of the shape that was fitted and of the
    network's own type, and ``thresholds`` of shape (n_exits, 1) or (n_exits,
    n_classes), which may be left out: by default those of the estimator. `n_exits` is
    the number of exits that were written. It returns
    ``label``, as in `classes_`, ``probabilities`` of shape (n_samples, n_classes) and
    ``exit``, the stage at which each sample left. Its metadata has as JSON the "stages"
    by name, the "costs" of leaving at each of them by these thresholds, their
    "cost_unit", the "classes" and "sk_e2cm", the version that wrote it.

    Weights are in the file up to 2 GB; those of larger networks lie beside it. NaN in
    a sample leaves at the first exit that was open when the file was written, without
    an error.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import onnxruntime
    >>> import torch
    >>> from sk_e2cm import E2CMClassifier, TorchExtractor, to_onnx
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    >>> clf = E2CMClassifier(
    ...     TorchExtractor(network, exits=["1"]), threshold=0.4, final="network")
    >>> clf = clf.fit(X, [0, 1, 2] * 10)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "early.onnx"
    ...     to_onnx(clf, path)
    ...     session = onnxruntime.InferenceSession(path)
    >>> label, probabilities, exit = session.run(None, {"X": X})
    >>> probabilities.shape
    (30, 3)
    """
    network, estimator = _checked(fitted)
    _check_packages()
    # onnx is no dependency of the package.
    from ._onnx._export import check_opset, export

    path, opset = Path(path), check_opset(opset)
    _check_path(path, single_file)
    export(
        network,
        network.thresholds(estimator.threshold),
        estimator.input_shape_,
        path,
        single_file=single_file,
        only_open=only_open,
        opset=opset,
        facts={
            "stages": list(network.stage_names),
            "costs": network.stage_cost(estimator.threshold).tolist(),
            "cost_unit": network.costs.unit,
            "sk_e2cm": __version__,
        },
    )


def _checked(fitted: Any) -> tuple[MultiExitNetwork, Any]:
    """Return the network on the CPU, and the estimator with early exits."""
    if isinstance(fitted, Pipeline) and len(fitted) > 1:
        raise TypeError(
            "Of a pipeline only the last step can be written, since the others are not "
            "torch's: to_onnx(pipeline[-1], path), and prepare X as they do."
        )
    estimator, _ = with_exits(fitted, None)
    extractor = estimator.network_.extractor
    if not isinstance(extractor, TorchExtractor):
        raise TypeError(
            f"to_onnx needs a network of torch, cut by TorchExtractor, and not "
            f"{type(extractor).__name__}."
        )
    network: MultiExitNetwork = estimator.network_.to("cpu")
    on_cpu: Any = network.extractor
    if on_cpu.input_dtype not in _TYPES:
        raise ValueError(
            f"The network takes {on_cpu.input_dtype}, which few programs that run ONNX "
            "compute on a CPU: pass TorchExtractor(module.float(), ...)."
        )
    if is_quantized(on_cpu.made_of.module):
        raise ValueError(
            "The network has layers that torch has quantised, which torch.onnx does "
            "not write. Export it as it was before, and quantise the file."
        )
    return network, estimator


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'to_onnx needs the package {error.name}: pip install "sk-e2cm[onnx]".'
        ) from error


def _check_path(path: Path, single_file: bool) -> None:
    if single_file and path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder: name a file, or pass single_file=False and a folder "
            "that is not there yet."
        )
    if not single_file and path.exists():
        raise FileExistsError(
            f"{path} is there already, and files of two exports would mix in it: name "
            "a folder that is not there."
        )
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.absolute().parent}.")
