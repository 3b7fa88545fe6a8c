r"""
The paper's formulas, and the default
=====================================

E2CM [1]_ in NumPy, formula by formula, gives what ``E2CMClassifier(metric="euclidean",
calibration=None, pooling="none")`` gives. Then what the default does otherwise, and
what that is worth.

.. [1] A. Görmez, V. R. Dasari, E. Koyuncu, "E2CM: Early Exit via Class Means for
   Efficient Supervised and Unsupervised Learning", IJCNN 2022, arXiv 2103.01148.
"""

# %%
# The formulas
# ------------
# The mean of each class at every exit,
#
# .. math:: c_{jk} = \frac{1}{|S_k|} \sum_{x \in S_k} f_j(x),
#
# the distance of a sample to each of them, over its mean on the training samples
# :math:`s_{jk}`, and the softmax of what is near:
#
# .. math:: d_{jk}(x) = \lVert f_j(x) - c_{jk} \rVert, \qquad
#           P_j(k \mid x) = \operatorname{softmax}_k \left(- d_{jk}(x) / s_{jk}\right).

import numpy as np
from digits_network import split_digits, trained
from scipy.spatial.distance import cdist
from scipy.special import softmax

from sk_e2cm import E2CMClassifier, TorchExtractor

_, (X, y), (X_new, y_new) = split_digits()
extractor = TorchExtractor(trained(), exits=7)


def features(X):
    outputs = extractor.staged_transform(X)
    return [output.reshape(len(X), -1).astype(np.float64) for output in outputs]


by_hand = []
for seen, new in zip(features(X)[:-1], features(X_new)[:-1], strict=True):
    means = np.stack([seen[y == k].mean(axis=0) for k in range(10)])
    scale = cdist(seen, means).mean(axis=0)
    by_hand.append(softmax(-cdist(new, means) / scale, axis=1))

# %%
# The same by the package:

paper = E2CMClassifier(
    extractor, metric="euclidean", calibration=None, pooling="none", final="network"
).fit(X, y)
proba = paper.exit_proba(X_new)
for j, name in enumerate(extractor.exits):
    print(f"{name:10} differs by {np.abs(proba[:, j] - by_hand[j]).max():.0e}")

# %%
# The default
# -----------
# It averages feature maps over a coarse grid, whitens distances by the covariance
# within the classes, and fits a temperature to samples that the class means have not
# seen. So exits are more accurate, and their confidence means something.

default = E2CMClassifier(extractor, final="network").fit(X, y)
better = default.exit_proba(X_new)

# %%
# Accuracy of each exit, and how sure it is
# -----------------------------------------
# The paper's probabilities are nearly flat: any threshold has to be found by search,
# for each exit.

import matplotlib.pyplot as plt

_, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, p in [("the paper's", proba), ("the default", better)]:
    left.plot((p.argmax(axis=2) == y_new[:, None]).mean(axis=0), "o-", label=name)
    right.plot(p.max(axis=2).mean(axis=0), "o-", label=name)
left.set_ylabel("Accuracy")
right.set_ylabel("Mean confidence")
for ax in (left, right):
    ax.set_xticks(range(8), extractor.stage_names, rotation=90)
    ax.legend()
