"""Tests of the extractors, one file for each module."""
