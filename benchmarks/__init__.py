"""Measurements, run by hand as `python -m benchmarks.NAME`; the tests never time anything."""
