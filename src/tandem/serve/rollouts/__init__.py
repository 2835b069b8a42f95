"""Rollouts: a new version beside the one that serves, by growing shares or in its shadow, until the numbers decide."""
