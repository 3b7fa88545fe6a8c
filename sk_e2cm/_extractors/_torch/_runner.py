"""Which form of a network runs: folded where that is right, and else as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..._utils._hashing import content_hash
from .._independence import check_independence
from .._tolerance import MixedSamples, Precision, Tolerance
from ._cut import Stage
from ._double import InDouble, in_double
from ._fold import fold
from ._rows import KeepRules
from ._staged import Live, StagedNetwork
from ._verify import decide, learn_keep_rules, prove, rules_after, three_rows_taken_by

_CLOSE = Tolerance(1e-5, 1e-5, 1e-5, 0)

# Deep networks, folded or not, are further than that from what they compute in double
# precision. So in doubt they have to be the same there, and in their own precision
# folding must not take them further away.
_SAME = Tolerance(0, 1e-9, 0, 0, of_scale=1e-9)
_TIMES_AS_FAR = 4

# Real samples that agree so well need no double precision.
_ROUNDED = Tolerance(1e-3, 3e-4, 0, 0, of_scale=3e-4)


class Runner:
    """Runs a network with its norms folded where that was proved to be right.

    Parameters
    ----------
    network : StagedNetwork
        As it is.

    folds : bool
        Whether to fold at all.

    Attributes
    ----------
    folded : StagedNetwork or None
        None if there is nothing to fold.
    """

    def __init__(self, network: StagedNetwork, folds: bool) -> None:
        self.network = network
        self.folded = fold(network) if folds else None
        self._verified: set[str] = set()

    def learn(self, batch: Tensor) -> bool:
        """Prove the network for samples of this shape unless it has been; tell which.

        Raises
        ------
        ValueError
            If samples of this shape cannot be computed stage by stage.
        """
        shape = batch.shape[1:]
        if shape in self.network.rules:
            return False
        network = self.network.exact
        three = three_rows_taken_by(network, batch)
        rules = learn_keep_rules(network, three)
        if self.folded is not None:
            found = learn_folded_rules(self.folded, network, rules, three)
            self.folded.rules[shape] = found
        # At last, since other threads begin once it is there.
        self.network.rules[shape] = rules
        return True

    def start(self, batch: Tensor) -> Live:
        """Return the state before the first stage, of the form that is to run."""
        return self.form_for(batch).start(batch)

    def form_for(self, batch: Tensor) -> StagedNetwork:
        """Return the form that is to run for samples of this shape."""
        if self.folded is not None and self.folded.rules.get(batch.shape[1:]):
            return self.folded
        return self.network

    @torch.inference_mode()
    def verify(self, samples: NDArray[Any]) -> None:
        """Check on real samples that these may leave, and what was folded.

        Raises
        ------
        ValueError
            If the network mixes the samples of a batch.
        """
        key = content_hash(samples)
        if key in self._verified:
            return

        def check(network: StagedNetwork, precision: Precision) -> None:
            check_independence(network, samples, precision)

        decide(self.network.exact, check)
        self._verify_folded(self.network.batch(samples))
        self._verified.add(key)

    def _verify_folded(self, batch: Tensor) -> None:
        shape = batch.shape[1:]
        if self.folded is None or not self.folded.rules.get(shape):
            return
        rules = self.network.rules[shape]
        own = _outputs(self.folded.stages, rules, batch)
        expected = _outputs(self.network.stages, rules, batch)
        if _agree(own, expected, _ROUNDED):
            return
        if not _is_as_exact(self.folded, self.network, rules, batch):
            self.folded.rules[shape] = ()


@torch.inference_mode(False)
@torch.no_grad()
def learn_folded_rules(
    folded: StagedNetwork,
    network: StagedNetwork,
    rules: Sequence[KeepRules],
    three: Tensor,
) -> tuple[KeepRules, ...]:
    """Find out what is alive in the folded network, and whether it may be run.

    Parameters
    ----------
    folded, network : StagedNetwork
        With norms folded, and as it is.

    rules : sequence of KeepRules
        Of the network as it is.

    three : tensor of shape (3, ...)
        Rows that it takes.

    Returns
    -------
    tuple of KeepRules
        One for each stage; empty if stages compute something else, for whatever reason.
    """
    # The network as it is serves as well, only slower: no error is worth raising.
    with suppress(Exception):
        return _learn(folded, network, rules, three, _CLOSE)
    with suppress(Exception):
        if _is_as_exact(folded, network, rules, three):
            with InDouble():
                twin = in_double(network)
                return _learn(fold(twin), twin, rules, twin.laid_out(three), _SAME)
    return ()


def _learn(
    folded: StagedNetwork | None,
    network: StagedNetwork,
    rules: Sequence[KeepRules],
    three: Tensor,
    tolerance: Tolerance,
) -> tuple[KeepRules, ...]:
    """Return the rules of the folded network.

    Raises
    ------
    ValueError
        If it computes something else.
    """
    if folded is None:
        raise ValueError("nothing is folded")
    found = []
    expected = _outputs(network.stages, rules, three)
    whole = []
    all_three: tuple[Any, ...] = (three.clone(),)
    two: tuple[Any, ...] = (three[:2].clone(),)
    for stage, label, value in zip(folded.stages, folded.labels, expected, strict=True):
        all_three, two = stage(*all_three), stage(*two)
        found.append(rules_after(label, two, all_three, tolerance))
        axis = found[-1].axis
        if not tolerance.agree(all_three[0].movedim(axis, 0), value, 0, among=value):
            raise MixedSamples(f"{label} is another value when folded")
        whole.append(value.movedim(0, axis))
    prove(folded.stages, found, three, whole, tolerance)
    return tuple(found)


def _is_as_exact(
    folded: StagedNetwork,
    network: StagedNetwork,
    rules: Sequence[KeepRules],
    batch: Tensor,
) -> bool:
    """Tell whether the folded network is as near to double precision as the other."""
    with InDouble():
        twin = in_double(network)
        exact = list(_outputs(twin.stages, rules, twin.laid_out(batch)))
    for own, before, value in zip(
        _outputs(folded.stages, rules, batch),
        _outputs(network.stages, rules, batch),
        exact,
        strict=True,
    ):
        apart, allowed = ((each - value).abs().mean() for each in (own, before))
        bound = _TIMES_AS_FAR * allowed + _CLOSE.of_size * value.abs().mean()
        if not apart <= bound < torch.inf:
            return False
    return True


def _outputs(
    stages: Sequence[Stage], all_rules: Sequence[KeepRules], batch: Tensor
) -> Iterator[Tensor]:
    """Yield copies of what the stages return, with samples along the first axis."""
    values: tuple[Any, ...] = (batch.clone(),)
    for stage, rules in zip(stages, all_rules, strict=True):
        values = stage(*values)
        yield values[0].movedim(rules.axis, 0).clone()


def _agree(
    own: Iterable[Tensor], expected: Iterable[Tensor], tolerance: Tolerance
) -> bool:
    return all(
        tolerance.agree(a, b, 0, among=b) for a, b in zip(own, expected, strict=True)
    )
