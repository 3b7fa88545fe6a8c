"""What an exit costs those who stay, and problems of fewer exits."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from .test_problem import CASES, INF, make_problem, totals_by_loops


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
@pytest.mark.parametrize("exit_", [0, 1, 2])
@pytest.mark.parametrize("carry", [0, 1, 2])
def test_the_fee_is_what_an_exit_costs_by_which_nobody_leaves(
    n_groups, thresholds, exit_, carry
):
    problem = make_problem(n_groups=n_groups, carry=carry)
    useless, closed = (np.array(thresholds) for _ in range(2))
    useless[exit_], closed[exit_] = 1.5, INF
    expected = np.subtract(*(totals_by_loops(problem, e) for e in (useless, closed)))
    reached = problem.reached(np.array(thresholds))
    found = problem.fee(exit_, reached, np.array(thresholds))
    assert_allclose([0, found], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n_groups", "thresholds"), CASES)
@pytest.mark.parametrize("exits", [[0], [1, 2], [0, 1, 2]])
def test_some_exits_are_a_problem_of_their_own(n_groups, thresholds, exits):
    problem = make_problem(n_groups=n_groups, carry=1)
    # None carries the features of an exit that is closed for ever.
    carried = [tuple(s for s in each if s in exits) for each in problem.costs.carried]
    problem = replace(problem, costs=replace(problem.costs, carried=carried))
    thresholds = np.array(thresholds)
    among = np.full_like(thresholds, INF)
    among[exits] = thresholds[exits]
    found = problem.of_exits(np.array(exits)).totals(thresholds[exits])
    assert_allclose(found, totals_by_loops(problem, among), rtol=1e-12)
