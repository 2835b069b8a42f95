"""Suites as Inspect AI's tasks: datasets, solvers, scorers and metrics; only the child process imports this."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from inspect_ai import Epochs, Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalSample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, Model, ModelOutput, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from openai import AsyncOpenAI, BadRequestError, OpenAIError
from tenacity import RetryError

from tandem.evals.cases import Case, Gap, Prompt, Question, Request
from tandem.evals.checks import EDITION, check_gap, check_question, check_request
from tandem.evals.earlier import most_similar_line
from tandem.evals.report import Row
from tandem.evals.runner import Endpoint, Job
from tandem.evals.suite import Kind, SuiteSettings
from tandem.kit import clock

_CHARACTERS_PER_TOKEN = 2.5  # of code in a small vocabulary; a prompt that is too long is shortened and put again
_SHRINK = 0.7
_SHRINKS = 10  # down to a thirtieth
_FILTERED: Final = "content_filter"
_TOO_LONG: Final = "model_length"
_ANSWER_SHARE: Mapping[Kind, int] = {"chat": 2, "regression": 2, "safety": 2, "code": 4, "performance": 2}
_NAMES: Mapping[Kind, tuple[str, ...]] = {
    "chat": ("accuracy",),
    "regression": ("pass_rate",),
    "code": ("exact_match", "edit_similarity", "parse_rate"),
    "safety": ("refusal_rate", "over_refusal_rate"),
    "performance": ("tokens_per_s", "time_to_first_token_s"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A model behind an endpoint, and what it is asked with."""

    model: Model
    endpoint: Endpoint

    @classmethod
    def of(cls, endpoint: Endpoint, job: Job) -> "Asked":
        """The model that the job's settings ask; the key goes no further than its requests."""
        settings = job.settings
        api = "openai-api-completions" if job.kind == "code" else "openai-api"
        config = GenerateConfig(
            temperature=settings.temperature,
            max_tokens=_most_tokens(job, endpoint),
            seed=settings.seed,
            max_connections=settings.parallel,
            attempt_timeout=settings.request_timeout_s,
            max_retries=1,
        )
        name, url = f"{api}/tandem/{endpoint.model}", f"{endpoint.url}/v1"
        return cls(get_model(name, base_url=url, api_key=endpoint.key, config=config), endpoint)


def task_of(job: Job, cases: Sequence[Case], release: Asked | None) -> Task:
    """The suite as a task of Inspect's."""
    settings = job.settings
    solvers: Mapping[str, Callable[[], Solver]] = {
        "code": lambda: fill_gap(job, {case.id: case for case in cases if isinstance(case, Gap)}, release),
        "performance": lambda: go_on(job),
    }
    return Task(
        name=job.suite,
        version=str(EDITION),
        dataset=MemoryDataset([_sample(case) for case in cases], name=job.suite),
        solver=solvers.get(job.kind, ask)(),
        scorer=held_against_case({case.id: case for case in cases}, job.kind),
        epochs=Epochs(settings.epochs, "mean"),
        metadata={"suite_digest": job.digest, "version": job.endpoint.version},
    )


@solver
def ask() -> Solver:
    """Put the question to the model."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        try:
            state = await generate(state)
        except RetryError as error:
            raise _cause(error) from None
        if state.output.stop_reason == _TOO_LONG:
            raise ValueError(f"The question is too long for the model: {state.output.completion}")
        return state

    return solve


@solver
def fill_gap(job: Job, gaps: Mapping[str, Gap], release: Asked | None) -> Solver:
    """Have the model fill a gap, and the current release too, where there is one."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        gap = gaps[str(state.sample_id)]
        state.output = await _filled(Asked(get_model(), job.endpoint), gap, job)
        state.metadata["baseline"] = {"text": most_similar_line(gap), "ended": False}
        if release is not None:
            try:
                theirs = await _filled(release, gap, job)
            except (OpenAIError, RetryError, RuntimeError, ValueError) as error:
                state.metadata["release_failed"] = str(error)  # the case is then compared with the baseline alone
            else:
                if theirs.stop_reason != _FILTERED:
                    state.metadata["release"] = {"text": theirs.completion, "ended": theirs.stop_reason == "stop"}
        return state

    return solve


@solver
def go_on(job: Job) -> Solver:
    """Stream an answer and note when its tokens came."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        try:
            state.output, noted = await _timed(job.endpoint, state.input_text, job.settings)
        except BadRequestError as error:
            if error.code != _FILTERED:
                raise
            state.output = ModelOutput.from_content(str(state.model), str(error), stop_reason=_FILTERED)
        else:
            state.metadata |= noted
        return state

    return solve


@scorer(metrics={"*": [mean(), stderr()]})
def held_against_case(cases: Mapping[str, Case], kind: Kind) -> Scorer:
    """The checks of `checks`, by kind of case; an answer that a filter blocked has no score."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        if state.output.stop_reason == _FILTERED:
            return Score.unscored(reason=_FILTERED)
        case, said = cases[str(state.sample_id)], state.output.completion
        noted = {**state.metadata, "ended": state.output.stop_reason == "stop"}
        others = {name: noted[name] for name in ("baseline", "release") if name in noted}
        return Score(
            value=_whole(_scores(case, said, noted, kind=kind), kind),
            answer=said,
            metadata={name: _scores(case, other["text"], other, kind=kind) for name, other in others.items()},
        )

    return score


def row_of(sample: EvalSample) -> Row:
    """What became of a case, as its sample in Inspect's log tells it."""
    name = str(sample.id)
    if sample.error is not None:
        return Row(id=name, outcome="failed", why=sample.error.message)
    score = next(iter((sample.scores or {}).values()), None)
    if score is None:
        return Row(id=name, outcome="failed", why="It was not scored.")
    if not isinstance(score.value, dict):
        return Row(id=name, outcome="filtered", why=sample.output.completion)
    others = score.metadata or {}
    return Row(
        id=name,
        outcome="answered",
        scores=_known(score.value),
        baseline=_known(others.get("baseline", {})),
        release=_known(others.get("release", {})),
    )


def _sample(case: Case) -> Sample:
    match case:
        case Question():
            system = [ChatMessageSystem(content=case.system)] if case.system else []
            return Sample(id=case.id, input=[*system, ChatMessageUser(content=case.prompt)], metadata=_told(case))
        case Gap():
            return Sample(id=case.id, input=case.prefix, target=case.middle, metadata=_told(case))
        case Request() | Prompt():
            return Sample(id=case.id, input=case.prompt, metadata=_told(case))


def _told(case: Case) -> dict[str, Any]:
    """What the log says of a case beside its text."""
    shown = {"id", "prompt", "prefix", "middle", "system"}
    return {name: value for name, value in msgspec.to_builtins(case).items() if name not in shown}


async def _filled(asked: Asked, gap: Gap, job: Job) -> ModelOutput:
    """The model's completion; what is shown of the program shrinks until it fits into the model's context."""
    characters = float(job.settings.prompt_characters)
    if asked.endpoint.context_tokens:
        room = asked.endpoint.context_tokens - _most_tokens(job, asked.endpoint)
        characters = min(characters, room * _CHARACTERS_PER_TOKEN)
    for _ in range(_SHRINKS):
        prefix, suffix = gap.clipped(int(characters))
        try:
            config = GenerateConfig(extra_body={"suffix": suffix}, stop_seqs=["\n"] if gap.form == "line" else None)
            return await asked.model.generate(prefix, config=config)
        except RetryError as error:
            raise _cause(error) from None
        except BadRequestError as error:
            if error.code == _FILTERED:
                return ModelOutput.from_content(str(asked.model), str(error), stop_reason=_FILTERED)
            if error.code != "context_length_exceeded":
                raise
        characters *= _SHRINK
    raise ValueError(f"Not even {int(characters)} characters of the program fit into the model's context.")


async def _timed(endpoint: Endpoint, prompt: str, settings: SuiteSettings) -> tuple[ModelOutput, dict[str, Any]]:
    """A streamed answer, its tokens, and the seconds to the first and to the last one."""
    client = AsyncOpenAI(
        base_url=f"{endpoint.url}/v1", api_key=endpoint.key, timeout=settings.request_timeout_s, max_retries=2
    )
    text, ended, tokens, first_s, last_s = "", "stop", 0, 0.0, 0.0
    async with client:
        started_s = clock.monotonic_seconds()
        stream = await client.completions.create(
            model=endpoint.model,
            prompt=prompt,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=settings.seed,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                last_s = clock.monotonic_seconds() - started_s
                first_s = first_s or last_s
                text += choice.text
                ended = choice.finish_reason or ended
    output = ModelOutput.from_content(endpoint.model, text, stop_reason=_FILTERED if ended == _FILTERED else "stop")
    return output, {"tokens": tokens, "first_s": first_s, "last_s": last_s}


def _scores(case: Case, said: str, noted: Mapping[str, Any], *, kind: Kind) -> Mapping[str, float]:
    match case:
        case Question():
            return {_NAMES[kind][0]: float(check_question(case, said))}
        case Gap():
            return check_gap(case, said, ended=noted["ended"])
        case Request():
            return check_request(case, said)
        case Prompt():
            tokens, seconds = noted["tokens"] - 1, noted["last_s"] - noted["first_s"]
            speed = {"tokens_per_s": tokens / seconds} if tokens > 0 and seconds > 0 else {}
            return {**speed, "time_to_first_token_s": noted["first_s"]}


def _whole(scores: Mapping[str, float], kind: Kind) -> dict[str, float]:
    """The scores with all names of the kind: Inspect wants them of each sample, and passes over what is no number."""
    return {name: scores.get(name, math.nan) for name in _NAMES[kind]}


def _known(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items() if not math.isnan(value)}


def _most_tokens(job: Job, endpoint: Endpoint) -> int:
    """Tokens of an answer: most of a small context is the question's."""
    share = _ANSWER_SHARE[job.kind]
    return max(1, min(job.settings.max_tokens, endpoint.context_tokens // share or job.settings.max_tokens))


def _cause(error: RetryError) -> BaseException:
    """What went wrong the last time, where all that is said otherwise is that it went wrong several times."""
    return error.last_attempt.exception() or error
