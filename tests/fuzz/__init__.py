"""Attacks on every public entry: an answer that is right, or an error that is clear.

``python -m tests.fuzz`` runs them. Each case follows from its seed alone: `generators`
of networks, data and parameters make it up, `calls` runs it, `references` says what is
right, and `verdict` what is clear, and what must be left as it was.
"""
