"""Tests of the examples, which are on the path (see pyproject.toml)."""
