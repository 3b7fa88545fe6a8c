"""Tests of the cut torch network, one file for each module."""
