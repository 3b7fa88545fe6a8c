"""What logits give."""

import torch

from sk_e2cm._utils._arrays import to_tensor


def proba_by(logits, features):
    """Return the probabilities of features, an array, as an array."""
    with torch.inference_mode():
        return logits.to_proba(logits(to_tensor(features))).numpy()
