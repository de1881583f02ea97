"""Benchmarks: each prints a table and writes JSON; ratios compare two ways of doing the same work in one run."""
