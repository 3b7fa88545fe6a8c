"""Attacks on every public entry: an answer that is right, or an error that is clear.

``python -m tests.fuzz`` runs them. Each case follows from its seed alone. `networks`,
`wrong_networks`, `odd_networks`, `data` and `parameters` make up what is passed, the
modules called `cases_...` pass it to one entry after the other, as `calls` does it,
`references` says which answers are right, and `verdict` which errors are clear, and
what must be left as it was.
"""
