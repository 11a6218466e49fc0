"""Experiments, run as modules with flags: ``python -m experiments.imitate --help``."""
