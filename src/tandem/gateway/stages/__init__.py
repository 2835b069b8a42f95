"""The steps of a request that stand alone: check, prepare, call."""
