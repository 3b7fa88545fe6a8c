"""A few cases of every kind that ``make fuzz`` runs by the thousand."""

import pytest

from .fuzz.run import KINDS, run_case, seeds_of


@pytest.mark.parametrize("kind", KINDS)
def test_every_case_is_answered_right_or_refused_clearly(kind):
    outcomes = [run_case(seed) for seed in seeds_of(kind, 10)]
    faults = [
        f"python -m tests.fuzz --only {outcome.seed}: {outcome.found}"
        for outcome in outcomes
        if outcome.result == "fault"
    ]
    assert not faults, "\n".join(faults)
