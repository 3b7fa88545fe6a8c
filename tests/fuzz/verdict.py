"""What a clear error is, and what no call may touch."""

from __future__ import annotations

import inspect
import linecache
import pickle
import random
import re
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin

import sk_e2cm
from sk_e2cm import inspection, metrics

OURS = str(Path(sk_e2cm.__file__).parent)
HERE = str(Path(__file__).parent)
SKLEARN = Path(sklearn.__file__).parent

# Where scikit-learn says what is wrong with what users pass.
SKLEARN_CHECKS = tuple(
    str(SKLEARN / name)
    for name in (
        "base.py",
        "metrics/_classification.py",
        "metrics/_scorer.py",
        "model_selection/_split.py",
        "utils/_available_if.py",
        "utils/_metadata_requests.py",
        "utils/_param_validation.py",
        "utils/multiclass.py",
        "utils/validation.py",
        "utils/__init__.py",
    )
)
# These name no parameter, but every user of scikit-learn knows them.
SKLEARN_PHRASES = (
    "inconsistent numbers of samples",
    "minimum of 1 is required",
    "Expected 2D array",
    "Complex data not supported",
    "Sample weights must",
    "dense data is required",
)

# What estimators hold of others.
_INSIDE = ("estimator", "estimator_", "clusterer", "final")

CLEAR = (ValueError, TypeError, AttributeError)


class Fault(AssertionError):
    """What was found is neither right nor clear."""


class Hang(BaseException):
    """A case took far too long."""


class Attempt(NamedTuple):
    """What came of a call: an answer, or an error."""

    answer: Any
    error: BaseException | None
    warned: tuple[str, ...]

    @property
    def outcome(self) -> str:
        return "answered" if self.error is None else "refused"


def _public_names() -> set[str]:
    names = {"X", "y", "network", "stage", "label", "labels", "module", "row", "batch"}
    names |= {"n_stages", "extractor", "mean_test_accuracy", "mean_test_cost"}
    for room in (sk_e2cm, metrics, inspection):
        for name in room.__all__:
            thing = getattr(room, name)
            names.add(name)
            callables = [thing]
            if inspect.isclass(thing):
                callables = [thing.__init__]
                for member in dir(thing):
                    if not member.startswith("_"):
                        names.add(member)
                        callables.append(inspect.getattr_static(thing, member))
            for each in callables:
                each = getattr(each, "__func__", each)
                if inspect.isfunction(each):
                    names.update(inspect.signature(each).parameters)
    return names - {"self", "cls", "name", "fit", "to"}


_NAMES = re.compile(r"(?<!\w)(" + "|".join(sorted(_public_names())) + r")(?!\w)")


def attempt(call: Callable[[], Any], *, names: tuple[str, ...] = ()) -> Attempt:
    """Call; return the answer or a clear error. Any other error is a fault.

    `names` are names that the message must hold, if it is an error: of the parameter
    that is wrong. By default it must hold some public name.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = call()
            if inspect.isgenerator(answer):
                answer = list(answer)
        except (Fault, KeyboardInterrupt):
            raise
        except Exception as error:
            refuse_unclear(error, names)
            return Attempt(None, error, _texts(caught))
    refuse_raw_warnings(caught)
    return Attempt(answer, None, _texts(caught))


def _texts(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    return tuple(str(each.message) for each in caught)


def refuse_raw_warnings(caught: list[warnings.WarningMessage]) -> None:
    """Refuse warnings of arithmetic; others speak to users."""
    for each in caught:
        raw = issubclass(each.category, (RuntimeWarning, DeprecationWarning))
        if raw and not issubclass(each.category, ConvergenceWarning):
            where = Path(each.filename).name
            raise Fault(
                f"raw {each.category.__name__} at {where}:{each.lineno}: {each.message}"
            )


def refuse_unclear(error: BaseException, names: tuple[str, ...] = ()) -> None:
    """Raise a `Fault` if an error is not clear.

    Clear is an error of a usual type that a ``raise`` of this package, or of
    scikit-learn's checks of what users pass, has raised, and that names what is wrong.
    """
    frame = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    text = str(error)
    problem = None
    if isinstance(error, Expected):
        return
    if not isinstance(error, CLEAR):
        problem = "is of an unusual type"
    elif not frame.filename.startswith((OURS, *SKLEARN_CHECKS)):
        problem = "comes from below"
    elif not line.startswith("raise"):
        problem = "was not raised on purpose"
    elif any(phrase in text for phrase in SKLEARN_PHRASES):
        return
    elif names and not any(
        re.search(rf"(?<!\w){re.escape(n)}(?!\w)", text) for n in names
    ):
        problem = f"does not name {' or '.join(names)}"
    elif not _NAMES.search(text) and not re.search(r"'[\w.]+'", text):
        problem = "names nothing"
    if problem:
        place = "/".join(Path(frame.filename).parts[-2:])
        raise Fault(
            f"an error {problem}: {type(error).__name__} at {place}:{frame.lineno}: "
            f"{' '.join(text.split())[:300]}"
        ) from error


class Expected(Exception):
    """Raised by objects of a case itself: passed on as it is."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang(f"took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def untouched(**kept: Any) -> Iterator[None]:
    """Refuse changes of these objects, and of what all code shares."""
    before = {name: digest(value) for name, value in kept.items()}
    world = _world()
    yield
    for name, value in kept.items():
        if digest(value) != before[name]:
            raise Fault(f"{name} was changed")
    for name, value in _world().items():
        if value != world[name]:
            raise Fault(f"{name} was changed")


def _world() -> dict[str, Any]:
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's random state": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "the random state of `random`": random.getstate(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's inference mode": torch.is_inference_mode_enabled(),
        "torch's default type": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "NumPy's error mode": np.geterr(),
    }


def digest(value: Any) -> Any:
    """Return what tells whether a value has changed.

    An estimator has if an attribute is another object than before.
    """
    if isinstance(value, nn.Module):
        return [_digest_module(name, m) for name, m in value.named_modules()]
    if isinstance(value, torch.Tensor):
        return _digest_tensor(value)
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()) if value.dtype.hasobject else value.tobytes()
        return str(value.dtype), value.shape, value.strides, content
    if isinstance(value, BaseEstimator) and hasattr(value, "fit"):
        inside = [digest(getattr(value, name, None)) for name in _INSIDE]
        return sorted((name, id(each)) for name, each in vars(value).items()), inside
    if isinstance(value, pd.DataFrame | pd.Series):
        cells = [repr(cell) for cell in value.to_numpy(object).ravel()]
        return type(value), str(value.axes), cells
    if isinstance(value, list | tuple):
        return type(value), [digest(each) for each in value]
    try:
        return pickle.dumps(value)
    except Exception:
        return repr(value)


def _digest_tensor(tensor: torch.Tensor) -> Any:
    facts = str(tensor.dtype), str(tensor.layout), tensor.requires_grad
    if isinstance(tensor, UninitializedTensorMixin):
        return facts
    plain = tensor.layout is torch.strided and not tensor.is_nested
    if not plain or tensor.device.type == "meta":
        return facts
    flat = tensor.detach().clone().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return facts, tensor.shape, tensor.stride(), tensor.grad is None, data


def _digest_module(name: str, module: nn.Module) -> Any:
    own = {}
    for key, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            own[key] = _digest_tensor(value)
        elif key in ("_parameters", "_buffers"):
            own[key] = {k: v if v is None else digest(v) for k, v in value.items()}
        elif isinstance(value, torch.Generator):
            own[key] = value.get_state().numpy().tobytes()
        elif key != "_modules":
            own[key] = repr(value)
    return name, type(module), own
