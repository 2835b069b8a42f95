"""The demo: the whole loop on real input in ten minutes, and one file for each part of it."""
