"""Cases of networks: right ones are served, wrong ones refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.random import Generator
from torch import nn

from sk_e2cm import E2CMClassifier, TorchExtractor

from . import odd_networks, wrong_networks
from .calls import (
    any_estimator,
    careful,
    classifier_for,
    cut,
    demand_answer,
    demand_refusal,
    demand_same,
    everything,
    fit,
)
from .data import Samples, make_samples
from .networks import Made, alone, make_network
from .references import (
    check_against_formulas,
    check_lazy,
    check_rows,
    demand_close,
    demand_equal,
    tolerance,
)
from .verdict import Fault, untouched

Notes = list[str]


def right_network(rng: Generator, notes: Notes) -> str:
    made = make_network(rng)
    notes.append(str(made))
    samples = make_samples(rng, made, int(rng.integers(24, 60)))
    extractor = demand_answer(cut(made), "a right network")
    estimator = any_estimator(rng, extractor, made.n_classes)
    notes.append(repr(estimator))
    fitted = fit(estimator, samples, made.network)
    if "clusters of rounding" in str(fitted.error):
        return "refused"
    demand_answer(fitted, "a right network")
    atol = tolerance(made)
    check_lazy(estimator, samples.X, near=max(1e-4, atol))
    check_rows(estimator, samples.X, np.random.RandomState(0), atol)
    if isinstance(estimator, E2CMClassifier) and estimator.pooling != "second_order":
        check_against_formulas(estimator, made, *samples, atol)
    return "answered"


def _refused_or_harmless(
    rng: Generator, notes: Notes, make: Callable[[Generator], Made]
) -> str:
    made = make(rng)
    notes.append(str(made))
    samples = make_samples(rng, made, int(rng.integers(24, 60)))
    if rng.integers(3) == 0:
        samples = _in_order(rng, samples)
    done = cut(made)
    if done.error is not None:
        return done.outcome
    estimator = classifier_for(rng, done.answer)
    notes.append(repr(estimator))
    done = fit(estimator, samples, made.network)
    if done.error is not None:
        return done.outcome
    atol = max(tolerance(made), 5e-3)
    try:
        proba = estimator.exit_proba(samples.X)
        demand_close("asked again", estimator.exit_proba(samples.X), proba, atol)
        check_rows(estimator, samples.X, np.random.RandomState(0), atol)
        _check_repeatable(made, samples.X, atol)
    except Fault as fault:
        raise Fault(f"a wrong network is accepted: {fault}") from fault
    return "answered"


def _in_order(rng: Generator, samples: Samples) -> Samples:
    """Sort rows, or let the first ones be equal: what is probed must not decide."""
    X, y = samples
    order = X.reshape(len(X), -1).sum(axis=1).argsort(kind="stable")
    if rng.integers(2):
        order = order[::-1]
    X, y = X[order], y[order]
    if rng.integers(2):
        X = X.copy()
        X[:4] = X[0]
    return Samples(np.ascontiguousarray(X), y)


def _check_repeatable(made: Made, X: np.ndarray, atol: float) -> None:
    """The network itself gives the same for a sample twice, whatever came before."""
    given = torch.from_numpy(X[:8].copy())
    given = given if made.family == "tokens" else given.to(made.dtype)
    network = copy.deepcopy(made.network).eval()
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        state = np.random.get_state()  # noqa: NPY002
        first, again = network(given[:1]).clone(), network(given[:1])
        np.random.set_state(state)  # noqa: NPY002
    demand_close("the network called twice", again.double(), first.double(), atol)


def mixing_network(rng: Generator, notes: Notes) -> str:
    return _refused_or_harmless(rng, notes, wrong_networks.mixing_network)


def stateful_network(rng: Generator, notes: Notes) -> str:
    return _refused_or_harmless(rng, notes, wrong_networks.stateful_network)


def random_network(rng: Generator, notes: Notes) -> str:
    return _refused_or_harmless(rng, notes, wrong_networks.random_network)


def odd_network(rng: Generator, notes: Notes) -> str:
    """Networks with something unusual about them, right or wrong."""
    name, made, right = odd_networks.choose(rng)
    notes.append(name)
    samples = make_samples(rng, made, 40)
    if name == "asserts its first token":
        samples.X[:, 0] = 1
    collected = list(getattr(made.network, "collected", []))
    done = cut(made)
    clf = E2CMClassifier(done.answer, threshold=0.6, metric="euclidean")
    if done.error is None:
        done = fit(clf, samples, made.network)
    if getattr(made.network, "collected", []) != collected:
        raise Fault("hooks of the user's network have run")
    if right is False:
        return demand_refusal(done, f"a network, {name},").outcome
    if done.error is not None:
        if right:
            demand_answer(done, f"a network, {name},")
        return done.outcome
    check_lazy(clf, samples.X)
    check_rows(clf, samples.X, np.random.RandomState(0), 2e-3)
    if right:
        _check_copies(clf, samples.X)
    return "answered"


def _check_copies(clf: E2CMClassifier, X: np.ndarray) -> None:
    """A loaded copy answers alike, a single sample first; the extractor is equal."""
    loaded = pickle.loads(pickle.dumps(clf))
    one = demand_answer(careful(lambda: loaded.predict(X[:1])), "a single sample")
    demand_equal("a loaded copy", one, clf.predict(X[:1]))
    demand_same("a loaded copy", everything(loaded, X), everything(clf, X))
    if isinstance(clf.extractor, TorchExtractor) and loaded.extractor != clf.extractor:
        raise Fault("a loaded extractor is not equal to what was pickled")
    if hash(loaded.extractor) != hash(clf.extractor):
        raise Fault("a loaded extractor has another hash")


def copies(rng: Generator, notes: Notes) -> str:
    made = make_network(rng)
    notes.append(str(made))
    samples = make_samples(rng, made, 30)
    extractor = demand_answer(cut(made), "a right network")
    clf = E2CMClassifier(extractor, threshold=0.6, metric="euclidean")
    demand_answer(fit(clf, samples, made.network), "a right network")
    _check_copies(clf, samples.X)
    again = TorchExtractor(copy.deepcopy(made.network), made.exits)
    if again != extractor or hash(again) != hash(extractor):
        raise Fault("the same network cut twice gives unequal extractors")
    other = copy.deepcopy(made.network)
    with torch.no_grad():
        last = [p for p in other.parameters() if p.numel()][-1]
        last.add_(1.0)
    if TorchExtractor(other, made.exits) == extractor:
        raise Fault("extractors with other weights are equal")
    return "answered"


def threads(rng: Generator, notes: Notes) -> str:
    """Two threads, two batch sizes, one estimator."""
    made = make_network(rng)
    notes.append(str(made))
    samples = make_samples(rng, made, 40)
    extractor = demand_answer(cut(made), "a right network")
    clf = classifier_for(rng, extractor)
    notes.append(repr(clf))
    demand_answer(fit(clf, samples, made.network), "a right network")
    expected = clf.exit_proba(samples.X)
    parts = [samples.X[:7], samples.X, samples.X[:1], samples.X[::-1].copy()]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(clf.exit_proba, parts))
    for proba, rows in zip(
        found, [expected[:7], expected, expected[:1], expected[::-1]], strict=True
    ):
        demand_close("two threads", proba, rows, tolerance(made))
    return "answered"


def vocabulary(rng: Generator, notes: Notes) -> str:
    """Samples that only the network can refuse: the message names the sample."""
    made = make_network(rng, "tokens")
    notes.append(str(made))
    samples = make_samples(rng, made, 30)
    extractor = demand_answer(cut(made), "a right network")
    clf = E2CMClassifier(extractor, threshold=0.6)
    bad, row = samples.X.copy(), int(rng.integers(30))
    bad[row, -1] = rng.choice([20, -1, 2**31, 2**40])
    if rng.integers(2):
        demand_answer(fit(clf, samples, made.network), "a right network")
        done = careful(lambda: clf.predict(bad), estimator=clf, X=bad)
    else:
        done = fit(clf, Samples(bad, samples.y), made.network)
    demand_refusal(done, f"token {bad[row, -1]}")
    if str(row) not in str(done.error):
        raise Fault(f"an error does not name sample {row}: {done.error}")
    return "refused"


def stages_by_hand(rng: Generator, notes: Notes) -> str:
    """Rows dropped, repeated and put in another order between stages stay right."""
    made = make_network(rng, dtype=torch.float32)
    notes.append(str(made))
    X, _ = make_samples(rng, made, 12)
    extractor = demand_answer(cut(made), "a right network")
    given = torch.from_numpy(X)
    each = [alone(made, given[i : i + 1]) for i in range(len(X))]
    with untouched(X=X, network=made.network):
        state, rows = extractor.begin(X), np.arange(len(X))
        for stage in range(len(extractor.stage_names)):
            state, output = extractor.advance(state, stage)
            expected = torch.cat([each[i][stage] for i in rows])
            scale = float(expected.abs().max()) + 1
            demand_close(f"stage {stage}", output, expected, 1e-4 * scale)
            kept = rng.integers(len(rows), size=int(rng.integers(1, len(rows) + 1)))
            state, rows = extractor.keep(state, kept), rows[kept]
    return "answered"


def chain_of_modules(rng: Generator, notes: Notes) -> str:
    """`from_modules` is the same network, whatever else is passed to it."""
    made = make_network(rng)
    notes.append(str(made))
    if made.network.carries != "nothing":
        made.network.carries = "nothing"
    parts = [made.network.stem, *made.network.blocks, made.network.head]
    wrong = [
        [],
        None,
        [3],
        parts[0],
        "abc",
        [nn.Linear, nn.ReLU],
        {},
        5,
        [None],
        [parts],
    ]
    if rng.integers(2):
        given = wrong[rng.integers(len(wrong))]
        notes.append(repr(given)[:100])
        done = careful(
            lambda: TorchExtractor.from_modules(given),
            names=("modules", "module", "from_modules"),
        )
        if given is parts[0] and done.error is None:  # a Sequential is a sequence
            return done.outcome
        return demand_refusal(done, f"from_modules({given!r})").outcome
    samples = make_samples(rng, made, 24)
    done = careful(lambda: TorchExtractor.from_modules(parts), network=made.network)
    extractor = demand_answer(done, "a chain")
    given = torch.from_numpy(samples.X)
    whole = [
        alone(made, (given if made.family == "tokens" else given.to(made.dtype)))[-1]
    ]
    *_, last = extractor.staged_transform(samples.X)
    scale = float(whole[0].abs().max()) + 1
    demand_close(
        "a chain's last stage", last, whole[0].float(), tolerance(made) * scale
    )
    return "answered"
