"""What heads say of the samples held out."""

import numpy as np


def proba_of(head):
    """Return the out-of-fold probabilities of a head, (n_held_out, n_classes)."""
    places, proba = zip(*head.out_of_fold(), strict=True)
    order = np.concatenate(places).argsort()
    return np.concatenate(proba)[order]
