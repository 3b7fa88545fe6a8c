"""Whether early exits pay for a network: ``python -m sk_e2cm.report``.

It cuts the network, fits and tunes exits by time on one half of the samples, and
measures on the other half; it prints tables and a verdict, and saves a picture.
The samples must be ones that the network was not trained on.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import nn

from ._classifier import E2CMClassifier
from ._extractors import TorchExtractor
from ._tuned import TunedExitsCV
from .inspection import report

__all__ = ["load_network", "load_samples", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Of the command line; by default those of this process.

    Raises
    ------
    SystemExit
        If the network or the samples cannot be had, with the reason.
    """
    given = _parser().parse_args(arguments)
    try:
        network = load_network(given.network)
        X, y = load_samples(given.data)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise SystemExit(f"sk_e2cm.report: {error}") from error
    X_fit, X_new, y_fit, y_new = train_test_split(
        X, y, test_size=0.5, stratify=y, random_state=0
    )
    extractor = TorchExtractor(network, _exits(given.exits))
    clf = E2CMClassifier(
        extractor,
        cost_unit="seconds",
        batch_size=given.batch_size,
        device=given.device,
    )
    search = TunedExitsCV(clf, max_drop=given.max_drop, random_state=0)
    search.fit(X_fit, y_fit)
    found = report(
        search,
        network,
        X_new,
        y_new,
        batch_sizes=(1, given.batch_size),
        max_drop=given.max_drop,
    )
    print(found)
    if given.picture:
        found.plot().savefig(given.picture)
        print(f"Picture: {given.picture}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sk_e2cm.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--network",
        required=True,
        metavar="MODULE:FUNCTION",
        help="or FILE.py:FUNCTION; the function takes nothing and returns the network",
    )
    add(
        "--data",
        required=True,
        metavar="FILE.npz",
        help="of numpy.savez: X, as the network takes it, and y; or X_test and y_test",
    )
    add("--exits", default="6", help="how many, all, or names with commas (default: 6)")
    add("--max-drop", type=float, default=0.01, help="of accuracy (default: 0.01)")
    add(
        "--batch-size", type=int, default=32, help="beside single samples (default: 32)"
    )
    add("--device", help="cpu, cuda, ... (default: where the network is)")
    add("--picture", type=Path, help="where to save it (default: no picture)")
    return parser


def load_network(spec: str) -> nn.Module:
    """Call the function of ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

    Parameters
    ----------
    spec : str
        A module is looked for in the working directory, too.

    Returns
    -------
    Module
        What the function returns.

    Raises
    ------
    ValueError
        If there is no such function.

    TypeError
        If it returns no module.
    """
    where, _, name = spec.rpartition(":")
    try:
        function = getattr(_imported(where), name)
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{spec!r} is neither FILE.py:FUNCTION nor MODULE:FUNCTION: {error}."
        ) from error
    network = function()
    if not isinstance(network, nn.Module):
        raise TypeError(f"{spec!r} returned a {type(network).__name__}, no nn.Module.")
    return network


def _imported(where: str) -> Any:
    """Import a module by its name, the working directory included, or by its file."""
    if not where.endswith(".py"):
        sys.path.append(str(Path.cwd()))
        return importlib.import_module(where)
    path = Path(where).resolve(strict=True)
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where pickle looks for its classes
    spec.loader.exec_module(module)
    return module


def load_samples(path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return X and y of a file of ``numpy.savez``.

    Parameters
    ----------
    path : str
        With the arrays X and y, or X_test and y_test: then others are left alone, as
        the network was trained on them.

    Returns
    -------
    X, y : ndarray
        Samples and labels.

    Raises
    ------
    OSError
        If it cannot be read.

    ValueError
        If it has no such arrays.
    """
    with np.load(path) as file:
        for names in (("X_test", "y_test"), ("X", "y")):
            if set(names) <= set(file):
                return file[names[0]], file[names[1]]
        raise ValueError(
            f"{path} needs the arrays X and y, or X_test and y_test, and has "
            f"{', '.join(file.files) or 'none'}."
        )


def _exits(text: str) -> Any:
    """Return the exits as `TorchExtractor` takes them."""
    if text.isdigit():
        return int(text)
    return "all" if text == "all" else text.split(",")


if __name__ == "__main__":
    main()
