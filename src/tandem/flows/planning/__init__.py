"""What plans begin from and what is asked of them: catalogue, charter, money, runs; questions and answers."""

from tandem.flows.planning.agreement import (
    claims_of,
    rules_of,
)
from tandem.flows.planning.answers import (
    FailuresAnswer,
    Ground,
    LayoutAnswer,
    answer_failures,
    answer_layout,
    answer_quote,
    answer_serving,
    answer_simulation,
    asked,
)
from tandem.flows.planning.asks import (
    AskedLayout,
    FailuresAsk,
    FundingAsk,
    LayoutAsk,
    QuoteAsk,
    RunAsk,
    ServingAsk,
    SimulationAsk,
    SystemsAsk,
    Where,
)
from tandem.flows.planning.choices import (
    SystemsAnswer,
    answer_funding,
    answer_systems,
)
from tandem.flows.planning.money import (
    spent,
    spent_in,
    used,
)
from tandem.flows.planning.outcomes import (
    Outcome,
    calibrated_as,
    comparisons,
    keep_outcome,
    outcome_of,
    outcomes,
)
from tandem.flows.planning.sources import (
    catalogue_of,
)
from tandem.flows.planning.work import (
    device_of,
    device_of_probe,
    measured_stages,
    pinned,
    size_of_recipe,
    size_of_version,
    work_of_recipe,
    work_of_run,
)

__all__ = [
    "AskedLayout",
    "FailuresAnswer",
    "FailuresAsk",
    "FundingAsk",
    "Ground",
    "LayoutAnswer",
    "LayoutAsk",
    "Outcome",
    "QuoteAsk",
    "RunAsk",
    "ServingAsk",
    "SimulationAsk",
    "SystemsAnswer",
    "SystemsAsk",
    "Where",
    "answer_failures",
    "answer_funding",
    "answer_layout",
    "answer_quote",
    "answer_serving",
    "answer_simulation",
    "answer_systems",
    "asked",
    "calibrated_as",
    "catalogue_of",
    "claims_of",
    "comparisons",
    "device_of",
    "device_of_probe",
    "keep_outcome",
    "measured_stages",
    "outcome_of",
    "outcomes",
    "pinned",
    "rules_of",
    "size_of_recipe",
    "size_of_version",
    "spent",
    "spent_in",
    "used",
    "work_of_recipe",
    "work_of_run",
]
