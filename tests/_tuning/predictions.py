"""Predictions made by hand."""

import numpy as np

from sk_e2cm._tuning._predictions import StagePredictions


def predictions_of(confidence, label, codes, n_classes):
    """Return predictions with these labels and confidences, (n_stages, n_samples).

    What is left to 1 is shared by the other classes.
    """
    others = (1 - confidence) / (n_classes - 1)
    proba = np.repeat(others[..., None], n_classes, axis=2)
    np.put_along_axis(proba, label[..., None], confidence[..., None], axis=2)
    return StagePredictions.from_proba(proba.swapaxes(0, 1), codes)
