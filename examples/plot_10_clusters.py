"""
Clusters that leave early
=========================

No label at all: k-means clusters the features of the last stage, each exit takes the
centroids of these clusters, and a sample leaves where one is sure of its cluster.
"""

# %%
# Fit and tune without labels
# ---------------------------
# The network stands in for an encoder of yours. It ends in its embedding, not in its
# logits. ``max_drop=0.01``: at most one sample in a hundred may get another cluster
# than at the end.

import matplotlib.pyplot as plt
import numpy as np
from digits_network import split_digits, trained
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score

from sk_e2cm import E2CMClusterer, TorchExtractor, TunedExitsCV
from sk_e2cm.metrics import agreement_cost_scorer

_, (X, _), (X_new, y_new) = split_digits()
exits = ["stem", *(f"blocks.{i}" for i in range(6))]
extractor = TorchExtractor(trained(), exits, output="blocks.7")
clusterer = E2CMClusterer(extractor, n_clusters=10, pooling=1, random_state=0)
search = TunedExitsCV(clusterer, max_drop=0.01, random_state=0).fit(X)

early = search.predict(X_new)
print(agreement_cost_scorer(search, X_new))
shared = normalized_mutual_info_score(y_new, early)
print(f"mutual information with the digits: {shared:.3f}")

# %%
# Where they leave
# ----------------
# The embedding in two directions: coloured by cluster, and by the stage at which each
# image left. What lies between clusters goes on.

last = [*extractor.staged_transform(X_new)][-1].mean(axis=(2, 3))
plane = PCA(2, random_state=0).fit_transform(last)
_, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
left.scatter(*plane.T, c=early, cmap="tab10", s=10)
left.set_title("cluster")
points = right.scatter(*plane.T, c=search.predict_exit(X_new), cmap="viridis", s=10)
right.set_title("stage at which it left")
plt.colorbar(points, ax=right, ticks=np.arange(8))
for ax in (left, right):
    ax.set(xticks=[], yticks=[])
