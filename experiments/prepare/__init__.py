"""Data sets become prepared sets: ``python -m experiments.prepare --help``."""
