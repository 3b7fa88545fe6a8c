"""Runs cases by their seeds."""

from __future__ import annotations

import contextlib
import io
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator

from . import cases_calls as calls
from . import cases_data as data
from . import cases_memory as caches
from . import cases_networks as networks
from . import cases_parameters as parameters
from . import cases_reports as reports
from . import cases_searches as searches
from .verdict import Fault, Hang, time_limit

LONGEST_SECONDS = 60.0

Case = Callable[[Generator, list[str]], str]
CASES: tuple[Case, ...] = (
    networks.right_network,
    networks.right_network,
    networks.mixing_network,
    networks.mixing_network,
    networks.stateful_network,
    networks.random_network,
    networks.odd_network,
    networks.copies,
    networks.threads,
    networks.vocabulary,
    networks.stages_by_hand,
    networks.chain_of_modules,
    data.samples_at_fit,
    data.samples_at_predict,
    data.labels,
    data.weights,
    data.lengths,
    data.numbers,
    data.known_estimators,
    parameters.parameter_at_fit,
    parameters.parameter_at_fit,
    parameters.parameter_after_fit,
    parameters.unknown_parameter,
    parameters.not_fitted,
    parameters.torch_extractor,
    parameters.pipeline_extractor,
    parameters.risk_control,
    parameters.testing_extractors,
    searches.search,
    searches.heads,
    searches.one_output,
    searches.kinds_of_numbers,
    caches.memory,
    calls.interrupted,
    calls.objects_of_users,
    reports.right_reports,
    reports.wrong_reports,
)
KINDS = tuple(dict.fromkeys(case.__name__ for case in CASES))


class Outcome(NamedTuple):
    """What came of a case: "answered", "refused" or "fault", and what was found."""

    seed: int
    kind: str
    result: str
    found: str


def kind_of(seed: int) -> str:
    return CASES[seed % len(CASES)].__name__


def seeds_of(kind: str, number: int) -> list[int]:
    """Return the first seeds of a kind."""
    places = [i for i, case in enumerate(CASES) if case.__name__ == kind]
    rounds = range(-(-number // len(places)))
    return [i + len(CASES) * r for r in rounds for i in places][:number]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Print no progress bars."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def run_case(seed: int) -> Outcome:
    case = CASES[seed % len(CASES)]
    notes: list[str] = []
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    found = ""
    try:
        with time_limit(LONGEST_SECONDS), _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case(np.random.default_rng(seed), notes)
    except (Fault, Hang) as fault:
        result, found = "fault", f"{fault}"
    except Exception as error:
        # A mistake of a call that the case took for right, or of the case itself.
        result = "fault"
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(
            f"{f.filename.split('/')[-1]}:{f.lineno}" for f in frames[::-1]
        )
        found = (
            f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:300]}"
        )
    if found:
        found = " ".join(" | ".join([found, *notes]).split())
    return Outcome(seed, case.__name__, result, found)


def run_cases(seeds: Sequence[int]) -> list[Outcome]:
    """Run cases on one thread."""
    torch.set_num_threads(1)
    return [run_case(seed) for seed in seeds]
