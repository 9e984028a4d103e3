"""Benchmarks: each folder prints one table against peers or limits measured in the same run."""
