"""The network with its exits: torch, and nothing of scikit-learn or of fitting."""
