"""
A promise: risk control
=======================

``max_drop`` speaks of the samples held out. A promise speaks of new ones: of a hundred
times that thresholds are chosen so, ninety-five or more keep it.
"""

# %%
# The data
# --------
# A promise needs thousands of samples, more than the digits have. So the source of
# samples is here "one of 449 digits that the network has not seen, with noise", and
# gives as many as are wanted.

import matplotlib.pyplot as plt
import numpy as np
from digits_network import split_digits, trained

from sk_e2cm import E2CMClassifier, RiskControl, TorchExtractor, TunedExitsCV

_, (X, y), (X_last, y_last) = split_digits()
rng = np.random.default_rng(0)


def noisy(X, y, n):
    rows = rng.integers(0, len(X), n)
    noise = rng.normal(scale=0.15, size=(n, *X.shape[1:]))
    return (X[rows] + noise).astype(np.float32), y[rows]


X_fit, y_fit = noisy(X, y, 1000)
X_held_out, y_held_out = noisy(X_last, y_last, 4000)
X_new, y_new = noisy(X_last, y_last, 4000)
exits = ["stem", *(f"blocks.{i}" for i in range(5))]
extractor = TorchExtractor(trained(), exits)
clf = E2CMClassifier(extractor, pooling=1, final="class_means").fit(X_fit, y_fit)

# %%
# Three ways to ask for one point
# -------------------------------
# ``confidence=0.95`` promises the drop of accuracy. :class:`~sk_e2cm.RiskControl`
# promises that few answers are spoilt, however many others are put right. Both cost
# something.

ways = {
    "max_drop": {"max_drop": 0.01},
    "max_drop, confidence": {"max_drop": 0.01, "confidence": 0.95},
    "RiskControl": {"risk": RiskControl(alpha=0.01, delta=0.05)},
}
spoilt, cost = [], []
full = clf.set_params(threshold=np.inf).predict(X_new)
for name, params in ways.items():
    search = TunedExitsCV(clf, cv="prefit", random_state=0, **params)
    search.fit(X_held_out, y_held_out)
    early = search.predict(X_new)
    drop = (full == y_new).mean() - (early == y_new).mean()
    spoilt.append(((full == y_new) & (early != y_new)).mean())
    cost.append(search.cost(X_new))
    print(f"{name:22} drop {drop:+.4f}  spoilt {spoilt[-1]:.4f}  cost {cost[-1]:.3f}")

# %%
# What new samples lose, and what it costs
# ----------------------------------------

_, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for name, x, y_ in zip(ways, cost, spoilt, strict=True):
    axes.plot(x, 100 * y_, "o", ms=10, label=name)
axes.axhline(1, color="k", linestyle=":", label="one in a hundred")
axes.set(
    xlabel="Cost, in fractions of the network's multiply-adds",
    ylabel="Answers spoilt by early exits, %",
)
axes.set_ylim(bottom=0)
axes.legend()
