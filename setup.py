"""Entry point for tools that still look for a setup.py; see pyproject.toml."""

from setuptools import setup

setup()
