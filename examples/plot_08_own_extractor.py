"""
Your own extractor: a forest, tree by tree
==========================================

Whatever can be computed step by step can have exits. Most samples need no more than a
few trees of a random forest: an extractor of five members asks some trees, then more of
them, then all, and samples leave as soon as the trees asked so far are sure.
"""

# %%
# The five members
# ----------------
# A state is whatever later stages need: here the samples, and the sum of the
# probabilities that trees have given so far. The last stage returns a logit for each
# class, so that the forest itself answers there.

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from sk_e2cm import E2CMClassifier, Extractor, TunedExitsCV
from sk_e2cm.inspection import ExitDisplay, TradeoffDisplay


class TreeByTree(Extractor):
    """A fitted forest, asked in groups of trees."""

    def __init__(self, forest, n_trees):
        self.forest = forest
        self.n_trees = n_trees  # up to the end of each stage

    @property
    def stage_names(self):
        return [f"{n} trees" for n in self.n_trees]

    def begin(self, X):
        return X, np.zeros((len(X), self.forest.n_classes_))

    def advance(self, state, stage):
        X, total = state
        first = self.n_trees[stage - 1] if stage else 0
        for tree in self.forest.estimators_[first : self.n_trees[stage]]:
            total = total + tree.predict_proba(X)
        share = total / self.n_trees[stage]
        return (X, total), np.log(share + 1e-3)

    def keep(self, state, rows):
        X, total = state
        return X[rows], total[rows]

    def macs(self, input_shape):
        # A comparison at each level of a tree, and an addition for each class.
        depth = np.mean([tree.get_depth() for tree in self.forest.estimators_])
        per_tree = depth + self.forest.n_classes_
        return [n * per_tree for n in self.n_trees]  # up to the end of each stage


# %%
# An estimator like any other
# ---------------------------
# The forest is fitted to one part of the digits, the exits to another.

X, y = load_digits(return_X_y=True)
X_train, X_rest, y_train, y_rest = train_test_split(
    X, y, test_size=0.6, stratify=y, random_state=0
)
X_fit, X_new, y_fit, y_new = train_test_split(
    X_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=0
)
forest = RandomForestClassifier(400, random_state=0).fit(X_train, y_train)
clf = E2CMClassifier(TreeByTree(forest, [10, 30, 100, 400]))
search = TunedExitsCV(clf, max_drop=0.005, random_state=0).fit(X_fit, y_fit)
search.summary()

# %%
# A fraction of the trees does as well as all of them:

found = search.predict_all(X_new)
print("the forest:      ", round(forest.score(X_new, y_new), 3))
print("with early exits:", (found.label == y_new).mean().round(3))
print("at a cost of:    ", found.cost.mean().round(3))

# %%
# Who leaves where, and what else could have been chosen:

ExitDisplay.from_estimator(search, X_new, y_new)

# %%

TradeoffDisplay.from_estimator(search, name="a forest, tree by tree")
