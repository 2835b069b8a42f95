"""Waiting for a free place: Erlang's formulas, for any number of places without long sums."""

import math

_NEVER = 1e18  # a chance below its inverse is none


def erlang_b(places: int, load_ratio: float) -> float:
    """The share of requests that find all `places` taken where those are turned away.

    `load_ratio` is the offered load in Erlang: arrivals a second times seconds at a place. Erlang's loss formula
    (A. K. Erlang, 1917) by its inverse, the sum over k of places! / (places - k)! / load^k, whose terms fall quickly
    where the answer is not negligible.
    """
    total = term = 1.0
    for taken in range(places):
        term *= (places - taken) / load_ratio
        total += term
        if total > _NEVER or term * _NEVER < total:
            break
    return 1 / total


def erlang_c(places: int, load_ratio: float) -> float:
    """The share of requests that wait for one of `places`, with Poisson arrivals and exponential times: M/M/c.

    1 where the load is as large as the number of places: then the queue grows for ever.
    """
    if load_ratio <= 0:
        return 0.0
    if load_ratio >= places:
        return 1.0
    lost = erlang_b(places, load_ratio)
    return lost / (1 - load_ratio / places * (1 - lost))


def waiting_s(places: int, load_ratio: float, *, stay_s: float, late_share: float) -> float:
    """The wait that only a share `late_share` of all requests exceeds, first come first served; 0 where fewer wait.

    M/M/c: P(wait > t) = C exp(-(places - load) t / stay). Infinite where the load is too large.
    """
    if load_ratio >= places:
        return math.inf
    waiting = erlang_c(places, load_ratio)
    if waiting <= late_share:
        return 0.0
    return stay_s / (places - load_ratio) * math.log(waiting / late_share)
