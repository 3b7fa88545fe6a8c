"""
Who leaves where
================

The first exits take the digits that look like digits. What reaches the end are the ones
that people have to look at twice.
"""

# %%

import matplotlib.pyplot as plt
import numpy as np
from digits_network import split_digits, trained

from sk_e2cm import E2CMClassifier, TorchExtractor, TunedExitsCV
from sk_e2cm.inspection import ExitDisplay

_, (X, y), (X_new, y_new) = split_digits()
exits = ["stem", *(f"blocks.{i}" for i in range(7))]
extractor = TorchExtractor(trained(), exits)
clf = E2CMClassifier(extractor, pooling=1)
search = TunedExitsCV(clf, max_drop=0.01, random_state=0).fit(X, y)
found = search.predict_all(X_new)

# %%
# Easy and hard ones
# ------------------
# In each row the images that left at one stage: the surest of each digit, as far as
# there are any. Names of wrong answers are red.

stages = np.flatnonzero(np.bincount(found.exit))
figure, axes = plt.subplots(
    len(stages),
    10,
    figsize=(8, 1.05 * len(stages)),
    layout="constrained",
    squeeze=False,
)
sure = found.proba.max(axis=1)
for line, stage in zip(axes, stages, strict=True):
    for digit, ax in enumerate(line):
        ax.set(xticks=[], yticks=[])
        rows = np.flatnonzero((found.exit == stage) & (y_new == digit))
        if not len(rows):
            ax.set_frame_on(False)
            continue
        row = rows[sure[rows].argmax()]
        ax.imshow(X_new[row, 0], cmap="gray_r")
        if found.label[row] != digit:
            ax.set_title(f"not {found.label[row]}", color="red", fontsize=8)
    line[0].set_ylabel(
        extractor.stage_names[stage], rotation=0, ha="right", va="center"
    )

# %%
# How many, and which
# -------------------

_, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
ExitDisplay.from_estimator(search, X_new, y_new, ax=left)
ExitDisplay.from_estimator(search, X_new, y_new, by="class", ax=right)
