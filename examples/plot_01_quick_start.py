"""
Quick start
===========

A trained network, samples that it has not seen, three lines, and a report that says
whether it was worth it.
"""

# %%
# The network stands in for yours: a small residual network that was trained on one half
# of scikit-learn's digits. Of the other half, one part chooses the exits, and the last
# part says what is gained.

from digits_network import split_digits, trained

network = trained()
_, (X, y), (X_new, y_new) = split_digits()
print(X.shape, X_new.shape)

# %%
# Cut, fit, tune
# --------------
# One forward pass gives class means at each exit, and the thresholds that lose at most
# a point of accuracy. These digits are easy: means of a grid over each feature map, the
# default, tell them apart right after the first layer, so ``pooling=1`` takes the mean
# of the whole map.

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

extractor = TorchExtractor(network, ["stem", "blocks.0", "blocks.1", "blocks.3"])
clf = E2CMClassifier(extractor, pooling=1)
search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
extractor.summary((1, 8, 8))

# %%
# Predict
# -------
# One run returns everything about each sample.

found = search.predict_all(X_new)
print("right:      ", (found.label == y_new).mean().round(3))
print("mean cost:  ", found.cost.mean().round(3), "of the network's multiply-adds")
print("first exits:", found.exit[:10])

# %%
# Was it worth it?
# ----------------
# The report measures accuracy, cost, calibration and time against the plain network.

from sk_e2cm.inspection import report

result = report(search, network, X_new, y_new)
print(result)

# %%
# And the picture: the trade-off and what was chosen, where samples leave, time, and
# whether exits are as sure as they are right.

figure = result.plot()
