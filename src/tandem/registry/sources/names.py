"""Plain names of models, derived from what their sources call them."""

import re


def plain_name(text: str) -> str:
    """`text` as a model's name: lower case, with dashes for what a name may not have."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"
