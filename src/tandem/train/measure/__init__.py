"""Measurements: what this machine can compute, and what a run makes of it."""
