"""Tests of `sk_e2cm._multi_exit`."""
