"""
Choosing the trade-off
======================

One pass over the samples gives every trade-off there is, the *frontier*. What is taken
from it is a drop of accuracy that you allow, or a cost that you can pay.
"""

# %%
# One search, its frontier
# ------------------------
# ``pooling=1`` averages feature maps over all positions. With the default, a
# grid, these digits are told apart right after the first layer: little to choose from.

from digits_network import split_digits, trained

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

_, (X, y), (X_new, y_new) = split_digits()
exits = ["stem", *(f"blocks.{i}" for i in range(7))]
extractor = TorchExtractor(trained(), exits)
clf = E2CMClassifier(extractor, pooling=1)
search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)

frontier = search.frontier_
print(f"{len(frontier['cost'])} points, full network {search.full_score_:.3f}")
for i in range(0, len(frontier["cost"]), max(1, len(frontier["cost"]) // 6)):
    print(f"cost {frontier['cost'][i]:.3f}: accuracy {frontier['score'][i]:.3f}")

# %%
# ``max_drop`` takes the cheapest thresholds that lose so much, ``max_cost`` the most
# accurate ones within a budget. Thresholds of another point of the frontier may be set
# at any time, without a fit.

from sklearn.base import clone

cheap = clone(search).set_params(max_drop=None, max_cost=0.1).fit(X, y)
for name, each in [("max_drop=0.01", search), ("max_cost=0.1", cheap)]:
    print(
        f"{name}: cost {each.cost(X_new):.3f}, accuracy {each.score(X_new, y_new):.3f}"
    )

# %%
# The frontier, and what was chosen
# ---------------------------------
# The circles are the choices, on the samples held out. The second curve is what one
# threshold, shared by all exits, reaches on new images.

import matplotlib.pyplot as plt

from sk_e2cm.inspection import TradeoffDisplay

_, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
TradeoffDisplay.from_estimator(search, name="frontier, samples held out", ax=axes)
TradeoffDisplay.from_estimator(
    search, X_new, y_new, name="one threshold, new images", ax=axes
)
axes.plot(cheap.best_cost_, cheap.best_score_, "s", color="C3", label="max_cost=0.1")
axes.set_xlim(0, 0.2)
axes.legend()
