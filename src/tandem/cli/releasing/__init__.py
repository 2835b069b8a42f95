"""The commands between a finished run and a name that clients call."""
