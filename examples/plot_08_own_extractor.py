"""
Your own extractor
==================

Whatever can be computed step by step can have exits: an extractor has five members.
This one looks at images coarsely first, and in full only if that does not do.
"""

# %%
# The five members
# ----------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sk_e2cm import E2CMClassifier, Extractor
from sk_e2cm.inspection import TradeoffDisplay


class Coarse(Extractor):
    """Images in three resolutions; a state is the images themselves."""

    stage_names = ("2 x 2", "4 x 4", "8 x 8")
    steps = (4, 2, 1)

    def begin(self, X):
        return X

    def advance(self, X, stage):
        step = self.steps[stage]
        n, side = len(X), 8 // step
        cells = X.reshape(n, side, step, side, step).mean(axis=(2, 4))
        return X, cells.reshape(n, -1)

    def keep(self, X, rows):
        return X[rows]

    def macs(self, input_shape):
        return [64, 128, 192]  # up to the end of each stage


# %%
# An estimator like any other
# ---------------------------

digits = load_digits()
X, X_new, y, y_new = train_test_split(
    digits.images, digits.target, test_size=0.4, random_state=0
)
clf = E2CMClassifier(Coarse(), threshold=0.9).fit(X, y)
print("accuracy", round(clf.score(X_new, y_new), 3), "cost", round(clf.cost(X_new), 3))
clf.summary()

# %%
# Here the class means cost more than the stages, so that early exits do not pay: exits
# are for stages of thousands of multiply-adds. The table says so, and so does the
# picture.
#
# What is easy
# ------------

stage = clf.predict_exit(X_new)
_, axes = plt.subplots(3, 8, figsize=(8, 3.2), layout="constrained")
for line, j in zip(axes, range(3), strict=True):
    for ax, row in zip(line, np.flatnonzero(stage == j)[:8], strict=False):
        ax.imshow(X_new[row], cmap="gray_r")
    for ax in line:
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(clf.extractor_.stage_names[j])

# %%

TradeoffDisplay.from_estimator(clf, X_new, y_new, name="coarse to fine")
