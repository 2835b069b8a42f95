"""Numbers of training for people: durations, rates, shares and large counts in a few characters."""

from tandem.spec import is_number

_SUFFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def short(value: object) -> str:
    """A number in about four characters: 12k, 3.4M; empty for what is no number, as all of these are."""
    if not is_number(value):
        return ""
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def percent(share: object) -> str:
    """A share of 1 in per cent."""
    return f"{100 * share:.1f} %" if is_number(share) else ""


def rate(tokens_per_s: object) -> str:
    """Tokens a second."""
    return f"{tokens_per_s:,.0f} tokens/s" if is_number(tokens_per_s) else ""


def span(seconds: float) -> str:
    """A duration: 34 ms, 45.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
