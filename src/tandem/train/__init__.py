"""The workshop: one protocol that trains all models; started as a child process, never imported."""

__all__: list[str] = []
