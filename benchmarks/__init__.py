"""Measures this engine beside Django's own: ``python -m benchmarks``."""
