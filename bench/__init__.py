"""Measurements: one script for each question, run as `python -m bench.NAME`; results in bench/results/."""
