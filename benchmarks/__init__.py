"""Benchmarks that write the tables of the docs; see the Makefile."""
