"""How fast the store is beside what one would write by hand. `python -m tests.benchmarks --help`."""
