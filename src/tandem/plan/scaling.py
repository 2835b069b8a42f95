"""Scaling laws: the loss of a model by its size and its tokens, the best split of an amount of computing, how sure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tandem.kit.errors import InvalidRequest, NotFound
from tandem.plan.derivation import Derivation, Step
from tandem.plan.units import SURE_DEVIATIONS, Interval, flop_text, parameters_text

Floats = npt.NDArray[np.float64]

_FIT_FLOP = (1.4e18, 1.3e22)  # the smallest and the largest run that was fitted
_EXTRAPOLATED_RATIO = 100.0  # so many times beyond them a law is a guess: said so

# The runs behind both laws, as budgets in FLOP with the smallest and the largest model at each and how many there are:
# figure 4 of arXiv 2203.15556 as Epoch AI read it, without the five outliers that the refit leaves out. The runs at a
# budget are spread evenly in the logarithm of their size.
_RUNS = (
    (5.5e18, 57e6, 552e6, 25),
    (9.5e18, 74e6, 1.8e9, 35),
    (2.8e19, 140e6, 1.8e9, 40),
    (5.5e19, 275e6, 1.6e9, 25),
    (9.6e19, 425e6, 3.0e9, 30),
    (2.9e20, 1.0e9, 6.8e9, 20),
    (6.0e20, 1.5e9, 12.6e9, 20),
    (1.0e21, 2.0e9, 12.6e9, 20),
    (2.9e21, 4.5e9, 16.2e9, 20),
    (1.3e22, 6.8e9, 6.8e9, 1),
)
# With this error of a loss, as a share of it, those runs give the standard errors that arXiv 2404.10102 prints: 0.03
# for E, 0.02 for alpha, beta and the exponent of N. It is also the error of reading losses from the figure's colours.
_LOSS_ERROR_SHARE = 0.013


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """The model and the tokens that an amount of computing is best spent on, each with its 90 % interval."""

    flop: float
    parameters: Interval
    tokens: Interval
    loss_nats: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta, in nats per token (arXiv 2203.15556, approach 3), where C = 6 N D."""

    name: str
    floor_nats: float
    """E: what no model gets below."""
    size_nats: float
    """A: what a finite model adds, at one weight."""
    data_nats: float
    """B: what finite data add, at one token."""
    size_exponent: float
    """Alpha."""
    data_exponent: float
    """Beta."""
    source: str

    def loss_nats(self, parameters: float, tokens: float) -> float:
        """Loss of a model of `parameters` weights after `tokens` tokens, each seen once."""
        return self.floor_nats + sum(self._terms_nats(parameters, tokens))

    def loss_interval_nats(self, parameters: float, tokens: float) -> Interval:
        """The same with the 90 % interval that the law's own uncertainty leaves; see `covariance`."""
        return _around(
            self.loss_nats(parameters, tokens), SURE_DEVIATIONS * self._error(self._loss_gradient(parameters, tokens))
        )

    def optimum(self, flop: float) -> Optimum:
        """The split of an amount of computing with the lowest loss: N = G (C/6)^(beta/(alpha+beta)), D = C/(6 N),
        G = (alpha A / (beta B))^(1/(alpha+beta)).

        Intervals are first-order propagation of `covariance`. The loss does not change with N at the optimum, so its
        interval is that of the loss at the best N and D.
        """
        parameters = math.exp(self._ln_size(flop))
        tokens = flop / (6 * parameters)
        spread = math.exp(SURE_DEVIATIONS * self._error(self._ln_size_gradient(flop)))
        return Optimum(
            flop=flop,
            parameters=Interval(parameters / spread, parameters, parameters * spread),
            tokens=Interval(tokens / spread, tokens, tokens * spread),
            loss_nats=self.loss_interval_nats(parameters, tokens),
        )

    def tokens_for_loss(self, parameters: float, target_nats: float) -> float | None:
        """Tokens after which a model of that size has the loss; None where it never has."""
        left = target_nats - self.floor_nats - self.size_nats / parameters**self.size_exponent
        return (self.data_nats / left) ** (1 / self.data_exponent) if left > 0 else None

    def flop_for_loss(self, target_nats: float) -> float:
        """The least computing with which the target is reached; the inverse of `optimum`.

        At the optimum alpha A / N^alpha = beta B / D^beta, so all that can still be learnt, L - E, is
        (1 + alpha/beta) A / N^alpha.

        Raises:
            InvalidRequest: the target is not above the irreducible loss E, or so near that no computer will do.
        """
        above = target_nats - self.floor_nats
        share = self.data_exponent / (self.size_exponent + self.data_exponent)
        if above > 0:
            ln_size = math.log(self.size_nats / (above * share)) / self.size_exponent
            ln_flop = math.log(6) + (ln_size - self._ln_best_size_at_six()) / share
            if ln_flop < math.log(_MOST_FLOP):
                return math.exp(ln_flop)
        raise InvalidRequest(
            f"A loss of {target_nats:g} nats cannot be reached by the law {self.name!r}: it never falls under "
            f"{self.floor_nats:g}, and {_MOST_FLOP:.0e} FLOP reach {self._least_nats():.3f}.",
            remedy=f"Ask for a loss of {self._least_nats() + 0.001:.3f} nats or more.",
            param="target_loss_nats",
        )

    def flop_for_size(self, parameters: float) -> float:
        """The computing at which a model of that size is the best one."""
        return 6 * math.exp((math.log(parameters) - self._ln_best_size_at_six()) / self.size_share_exponent)

    @property
    def size_share_exponent(self) -> float:
        """The exponent a in N ~ C^a."""
        return self.data_exponent / (self.size_exponent + self.data_exponent)

    def derivation(self, optimum: Optimum) -> Derivation:
        """How an optimum was found, with the law's constants, and what is doubtful about it."""
        law = (
            f"L = {self.floor_nats:g} + {self.size_nats:g} / N^{self.size_exponent:g}"
            f" + {self.data_nats:g} / D^{self.data_exponent:g}"
        )
        size, tokens, loss = optimum.parameters, optimum.tokens, optimum.loss_nats
        value = (
            f"{parameters_text(size.mid)} weights ({parameters_text(size.low)} to {parameters_text(size.high)}), "
            f"{parameters_text(tokens.mid)} tokens ({tokens.mid / size.mid:.3g} a weight), "
            f"{loss.mid:.3f} nats ({loss.low:.3f} to {loss.high:.3f})"
        )
        return Derivation(
            steps=(
                Step(what=f"best split of {flop_text(optimum.flop)}", formula=law, value=value, source=self.source),
            ),
            conventions=(
                f"scaling law {self.name}: C = 6 N D; intervals hold with 90 % as far as the fit goes",
                "a law's loss is in nats per token of its own data and vocabulary: compare losses, do not expect them",
            ),
            warnings=self._warnings(optimum.flop),
        )

    def _warnings(self, flop: float) -> tuple[str, ...]:
        least, most = _FIT_FLOP
        if least / _EXTRAPOLATED_RATIO <= flop <= most * _EXTRAPOLATED_RATIO:
            return ()
        return (
            f"The law was fitted on runs of {flop_text(least)} to {flop_text(most)}; {flop_text(flop)} is far outside, "
            "and the interval knows only how sure the fit is, not whether the law still holds there.",
        )

    def _terms_nats(self, parameters: float, tokens: float) -> tuple[float, float]:
        return self.size_nats * parameters**-self.size_exponent, self.data_nats * tokens**-self.data_exponent

    def _ln_best_size_at_six(self) -> float:
        """Logarithm of G: the best size at C = 6."""
        a, b = self.size_exponent, self.data_exponent
        return math.log(a * self.size_nats / (b * self.data_nats)) / (a + b)

    def _ln_size(self, flop: float) -> float:
        return self._ln_best_size_at_six() + self.size_share_exponent * math.log(flop / 6)

    def _least_nats(self) -> float:
        return self.optimum(_MOST_FLOP).loss_nats.mid

    def _loss_gradient(self, parameters: float, tokens: float) -> Floats:
        """Of the loss by E, ln A, ln B, alpha and beta."""
        size, data = self._terms_nats(parameters, tokens)
        return np.array([1.0, size, data, -math.log(parameters) * size, -math.log(tokens) * data])

    def _ln_size_gradient(self, flop: float) -> Floats:
        """Of the logarithm of the best size by E, ln A, ln B, alpha and beta."""
        a, b = self.size_exponent, self.data_exponent
        both = a + b
        shift, amount = self._ln_best_size_at_six(), math.log(flop / 6)
        return np.array(
            [
                0.0,
                1 / both,
                -1 / both,
                (1 / a - shift) / both - b * amount / both**2,
                -(1 / b + shift) / both + a * amount / both**2,
            ]
        )

    def _error(self, gradient: Floats) -> float:
        return math.sqrt(float(gradient @ covariance(self) @ gradient))


_MOST_FLOP = 1e33  # ten thousand times all that was ever trained together

LAWS: Mapping[str, Law] = MappingProxyType(
    {
        "epoch": Law(
            name="epoch",
            floor_nats=1.8172,
            size_nats=482.01,
            data_nats=2085.43,
            size_exponent=0.3478,
            data_exponent=0.3658,
            source="Epoch AI's refit of Chinchilla, arXiv 2404.10102, table 1",
        ),
        "chinchilla": Law(
            name="chinchilla",
            floor_nats=1.69,
            size_nats=406.4,
            data_nats=410.7,
            size_exponent=0.34,
            data_exponent=0.28,
            source="Chinchilla, arXiv 2203.15556, approach 3 as printed; the refit shows that it fits its runs worse",
        ),
    }
)
"""The laws by their names; the first is the default."""


def law_of(name: str) -> Law:
    """A law by its name.

    Raises:
        NotFound: there is none of this name; names those there are.
    """
    if name not in LAWS:
        raise NotFound(f"There is no scaling law {name[:40]!r}.", remedy=f"There are {', '.join(LAWS)}.")
    return LAWS[name]


@cache
def covariance(law: Law) -> Floats:
    """Covariance of E, ln A, ln B, alpha and beta of a law, 5 x 5: the inverse of the information that the fitted runs
    hold about the logarithm of the loss.

    The refit prints standard errors, not how errors go together, and A with alpha and B with beta all but move as one:
    taken apart they would say far too much. This gives back the printed standard errors of E, alpha, beta and of the
    exponent of N within a fifth, those of A and B within two fifths. Chinchilla's own intervals are not used: for them
    to be right its authors would have needed 600,000 runs (arXiv 2404.10102), so both laws have that of the runs.
    """
    sizes = np.concatenate([np.geomspace(least, most, count) for _, least, most, count in _RUNS])
    flop = np.concatenate([np.full(count, budget) for budget, _, _, count in _RUNS])
    tokens = flop / (6 * sizes)
    size = law.size_nats * sizes**-law.size_exponent
    data = law.data_nats * tokens**-law.data_exponent
    loss = law.floor_nats + size + data
    rows = np.stack([np.ones_like(loss), size, data, -np.log(sizes) * size, -np.log(tokens) * data], axis=1)
    informed = rows / (loss * _LOSS_ERROR_SHARE)[:, None]
    found: Floats = np.linalg.inv(informed.T @ informed)
    found.setflags(write=False)
    return found


def batch_tokens(flop: float) -> float:
    """Tokens of a step that suit a run: 0.2920 C^0.3271 (arXiv 2401.02954, equation 1), fitted from 1e17 to 2e19 FLOP.

    The optimum is broad. DeepSeek's own 67B took 18.9 M tokens where this says 20 M; Llama 3 405B took 16.8 M where it
    says 68 M, so beyond 1e25 FLOP it is an upper bound rather than advice.
    """
    return 0.2920 * float(flop**0.3271)


def peak_rate(flop: float) -> float:
    """The learning rate that suits a run, AdamW's: 0.3118 C^-0.1250 (arXiv 2401.02954, equation 1)."""
    return 0.3118 * float(flop**-0.1250)


def _around(mid: float, reach: float) -> Interval:
    return Interval(mid - reach, mid, mid + reach)
