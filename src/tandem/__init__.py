"""Tandem: one open platform for the whole path of a model."""

__version__ = "0.1.0"
