"""Cases of caches: what is stored is found again by what has computed it alone."""

from __future__ import annotations

import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import Generator

from sk_e2cm import E2CMClassifier, TorchExtractor

from .calls import careful
from .cases_parameters import working_directory
from .data import make_rows
from .networks import make_network
from .references import demand_close

Notes = list[str]

_OWN = """
from sk_e2cm import Extractor

def helper(x):
    return x {helper}

class Base(Extractor):
    scale = {base}
    def keep(self, state, rows):
        return state[rows]

class Own(Base):
    stage_names = ("half", "all")
    class Inner:
        def __call__(self, x):
            return x {inner}
    def begin(self, X):
        return X
    def advance(self, state, stage):
        seen = helper(self.Inner()(state)) * self.scale {own}
        return state, seen[:, :2] if stage == 0 else seen
    def macs(self, input_shape):
        return [1.0, 2.0]

make = Own
"""

# A leaf that torch.fx cannot trace, and a function that it does not look into.
_NETWORK = """
import torch
from torch import fx, nn
from sk_e2cm import TorchExtractor

def helper(x):
    return x {helper}

@fx.wrap
def wrapped(x):
    return x {wrapped}

class Base(nn.Module):
    scale = {base}

class Leaf(Base):
    def forward(self, x):
        if float(x.abs().max()) < 0:
            return x
        return helper(x) * self.scale {own}

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.leaf, self.last = nn.Tanh(), Leaf(), nn.Flatten()

    def forward(self, x):
        return self.last(self.leaf(self.first(wrapped(x))))

def make():
    return TorchExtractor(Network(), ["leaf"])
"""


def _make(source: str, changed: str = "") -> Any:
    """Run the source anew, as an edited file is, and make its extractor."""
    parts = dict.fromkeys(("helper", "inner", "own", "wrapped"), "+ 0.0") | {
        "base": "1.0"
    }
    if changed:
        parts[changed] = "3.0" if changed == "base" else "** 3"
    module = types.ModuleType("own_extractor")
    sys.modules[module.__name__] = module
    exec(source.format(**parts), vars(module))
    return module.make()


def memory(rng: Generator, notes: Notes) -> str:
    """A cache never gives what another extractor, or other code, has computed."""
    X, y = make_rows(rng, 40)
    X = np.column_stack([X, X[:, 0] ** 2]).astype(np.float32)
    place = ("", "cache", "path")[rng.integers(3)]
    makers: list[Callable[[], Any]]
    if rng.integers(3):
        source, parts = (_OWN, ("helper", "base", "inner", "own"))
        if rng.integers(2):
            source, parts = (_NETWORK, ("helper", "base", "wrapped", "own"))
        part = parts[rng.integers(4)]
        makers = [lambda: _make(source), lambda: _make(source, part)]
        kind = "network" if source is _NETWORK else "extractor"
        notes.append(f"memory={place!r}, own {kind}, {part} changed")
    else:
        networks = [make_network(rng, "rows", dtype=torch.float32) for _ in range(2)]
        X = rng.normal(size=(len(X), *networks[0].shape)).astype(np.float32)
        makers = [lambda m=m: TorchExtractor(m.network, m.exits) for m in networks]
        notes.append(f"memory={place!r}, {networks[0]}, {networks[1]}")
    with working_directory() as folder:
        given = pathlib.Path(folder) if place == "path" else place
        for make in makers:
            clf = E2CMClassifier(make(), metric="euclidean", final="class_means")
            expected = clf.fit(X, y).exit_proba(X)
            clf.set_params(memory=given)
            for _ in range(2):
                done = careful(lambda clf=clf: clf.fit(X, y), estimator=clf, X=X, y=y)
                if done.error is not None:
                    return done.outcome
                demand_close("with memory", clf.exit_proba(X), expected, 1e-6)
                right = np.mean(clf.predict(X) == y)
                demand_close("score", clf.score(X, y), right, 1e-9)
    return "answered"
