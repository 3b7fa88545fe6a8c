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
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import nn

from ._classifier import E2CMClassifier
from ._extractors import TorchExtractor
from ._tuned import TunedExitsCV
from ._utils._compat import check_matplotlib_support
from .inspection import Report, report

__all__ = ["NetworkSpecError", "load_network", "load_samples", "main"]


# Exits if none are asked for.
_MOST_EXITS = 6


class NetworkSpecError(ValueError):
    """A network that was named is not to be had."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Of the command line; by default those of this process.

    Raises
    ------
    SystemExit
        If something cannot be had or done, with the reason.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.picture:
        _check_picture(parser, given.picture)
    try:
        network = load_network(given.network)
    except NetworkSpecError as error:  # what its own code raises has its traceback
        raise SystemExit(f"sk_e2cm.report: {error}") from error
    try:
        found = _measure(network, given)
        print(found)
        if given.picture:
            found.plot().savefig(given.picture)
            print(f"Picture: {given.picture}")
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise SystemExit(f"sk_e2cm.report: {error}") from error


def _check_picture(parser: argparse.ArgumentParser, path: Path) -> None:
    """Refuse a picture that could not be saved in the end."""
    if path.is_dir() or not path.parent.is_dir():
        parser.error(f"--picture: {path} is no file in a folder that exists.")
    try:
        check_matplotlib_support("--picture")
    except ImportError as error:
        parser.error(str(error))


def _measure(network: nn.Module, given: argparse.Namespace) -> Report:
    """Fit and tune on one half of the samples, report on the other."""
    X, y = load_samples(given.data)
    try:
        X_fit, X_new, y_fit, y_new = train_test_split(
            X, y, test_size=0.5, stratify=y, random_state=0
        )
    except ValueError as error:
        raise ValueError(f"{given.data} cannot be split in half: {error}") from error
    clf = E2CMClassifier(
        _cut(network, given.exits, X.shape[1:]),
        final=given.final,
        cost_unit="seconds",
        batch_size=given.batch_size,
        device=given.device,
    )
    search = TunedExitsCV(clf, max_drop=given.max_drop, random_state=0)
    search.fit(X_fit, y_fit)
    return report(
        search,
        network,
        X_new,
        y_new,
        batch_sizes=(1, given.batch_size),
        max_drop=given.max_drop,
    )


def _cut(
    network: nn.Module, exits: str | None, input_shape: tuple[int, ...]
) -> TorchExtractor:
    """Cut the network at the exits that were asked for, or at some."""
    cut = partial(TorchExtractor, network, input_shape=input_shape)
    if exits is None:
        everywhere = cut("all")
        return everywhere if len(everywhere.exits) <= _MOST_EXITS else cut(_MOST_EXITS)
    if exits.isdecimal():
        return cut(int(exits))
    return cut(exits if exits == "all" else [e.strip() for e in exits.split(",")])


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
    add("--exits", help="how many, all, or names with commas (default: 6 at most)")
    add("--max-drop", type=float, default=0.01, help="of accuracy (default: 0.01)")
    add(
        "--batch-size", type=int, default=32, help="beside single samples (default: 32)"
    )
    add(
        "--final",
        choices=("auto", "network", "class_means"),
        default="auto",
        help="what answers at the end: class_means if the network was trained for "
        "other classes (default: auto)",
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
    NetworkSpecError
        If there is no such function, or if it returns no module. What its own code
        raises is not caught.
    """
    where, colon, name = spec.rpartition(":")
    if not colon:
        raise NetworkSpecError(
            f"{spec!r} is neither FILE.py:FUNCTION nor MODULE:FUNCTION: which function "
            "returns the network?"
        )
    module = _of_file(Path(where)) if where.endswith(".py") else _of_name(where)
    if module is None or not callable(getattr(module, name, None)):
        what = f"there is no {where!r}" if module is None else f"it has no {name!r}"
        raise NetworkSpecError(f"{spec!r}: {what}.")
    network = getattr(module, name)()
    if not isinstance(network, nn.Module):
        raise NetworkSpecError(
            f"{spec!r} returned a {type(network).__name__}, no nn.Module."
        )
    return network


def _of_name(name: str) -> ModuleType | None:
    """Import a module, the working directory included; None if there is none."""
    sys.path.append(str(Path.cwd()))
    if name.startswith("."):  # of which package, nobody knows
        return None
    try:
        found = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # of a package before the last dot
        return None
    return importlib.import_module(name) if found else None


def _of_file(path: Path) -> ModuleType | None:
    """Import a file; None if there is none."""
    if not path.is_file():
        return None
    path = path.resolve()
    sys.path.append(str(path.parent))
    name = path.stem
    while name in sys.modules:  # as of a file that is called random.py
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle looks for its classes
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
        If it is no such file, or has no such arrays.
    """
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            for names in (("X_test", "y_test"), ("X", "y")):
                if set(names) <= set(file):
                    return file[names[0]], file[names[1]]
            has = ", ".join(file) or "none"
    except (EOFError, BadZipFile, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of numpy.savez: {error}") from error
    raise ValueError(f"{path} needs the arrays X and y, or X_test and y_test: {has}.")


if __name__ == "__main__":
    main()
