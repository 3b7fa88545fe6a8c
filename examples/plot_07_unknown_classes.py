"""
Unknown classes: reject what is near to nothing
===============================================

A classifier answers with one of the classes it knows, and is often sure. Class means
allow another question at every exit: is any of them near? A sample that is far away at
each exit that it passes is rejected.

Where a ResNet-20 has learned Fashion-MNIST, pictures of MNIST are told from it by the
distance at the last stage with an AUROC of .992, by the largest of all distances with
.978, by the least with .977, and by the probabilities of all stages with .883
(``python -m benchmarks.unknown_classes``; .5 is a guess). Here the network knows the
digits 0 to 7, and 8 and 9 are unknown, which is harder: they look like digits.
"""

# %%
# A network that has never seen an 8 or a 9
# -----------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from digits_network import split_digits, train
from distances import NearestMeans
from sklearn.metrics import RocCurveDisplay, roc_auc_score

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV

(X_train, y_train), (X, y), (X_new, y_new) = split_digits()
network = train(X_train[y_train < 8], y_train[y_train < 8], epochs=4)
X, y = X[y < 8], y[y < 8]
extractor = TorchExtractor(network, exits=5)
clf = E2CMClassifier(extractor, final="class_means")
search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)

# %%
# How sure, and how far
# ---------------------
# Distances are those to the nearest class mean, whitened, as a multiple of what is
# usual at that stage. The largest of all stages is one way to make one number of them.

is_unknown = y_new >= 8
unsure = 1 - search.exit_proba(X_new)[:, -1].max(axis=1)
far = NearestMeans(extractor).fit(X, y).distances(X_new)
scores = {
    "last stage: 1 - largest probability": unsure,
    "last stage: distance": far[:, -1],
    "all stages: largest distance": far.max(axis=1),
}
for name, score in scores.items():
    print(f"{name:36} AUROC {roc_auc_score(is_unknown, score):.3f}")

# %%
# Rejecting at a distance
# -----------------------
# Early exits stay early if only the exits that a sample has passed are asked: it is
# rejected if it is far away at each of them. The limit is one that 95% of known samples
# keep, which the class means have not seen.


def distance_on_the_way(near, X):
    stage, far = search.predict_exit(X), near.distances(X)
    passed = np.arange(far.shape[1]) <= stage[:, None]
    return np.where(passed, far, np.inf).min(axis=1)


near = NearestMeans(extractor).fit(X[::2], y[::2])
limit = np.quantile(distance_on_the_way(near, X[1::2]), 0.95)
rejected = distance_on_the_way(near, X_new) > limit
print(f"rejected: {rejected[is_unknown].mean():.0%} of the unknown digits,")
print(f"          {rejected[~is_unknown].mean():.0%} of the known ones")

# %%

_, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
for name, score in scores.items():
    RocCurveDisplay.from_predictions(is_unknown, score, name=name, ax=axes)
axes.set(
    xlabel="Known digits that are rejected", ylabel="Unknown digits that are rejected"
)
