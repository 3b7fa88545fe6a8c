"""Arrays, hashes, checks of input, and scikit-learn's private names."""
