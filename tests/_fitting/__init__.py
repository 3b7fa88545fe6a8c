"""Tests of `sk_e2cm._fitting`."""
