"""Money and use so far, by month: what training cost, and the tokens that went through each deployment."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from tandem.accounts import GroupBy, summarise
from tandem.kit.db import Database
from tandem.plan.funding import Cost, Used
from tandem.registry import Runs
from tandem.spec import Run, Story, read_story

TRAIN = "train"
"""The stage that runs are paid from."""

_PAGE = 100  # runs read at a time


def spent(runs: Runs) -> tuple[Cost, ...]:
    """What the runs that began in each month cost, by the price of their systems when they ran; months without are
    left out.
    """
    months: defaultdict[str, float] = defaultdict(float)
    for run_id in runs.ids():
        story = read_story(runs.folder(run_id))
        months[_month(story)] += story.usd
    return tuple(Cost(stage=TRAIN, month=month, amount_usd=usd) for month, usd in sorted(months.items()) if usd > 0)


def spent_in(runs: Runs, moment: datetime, *, besides: str = "") -> float:
    """US dollars that the runs cost which began in the month of a moment, UTC; `besides` is one that does not count."""
    begun = [run.run_id for run in _begun_in(runs, moment) if run.run_id != besides]
    return sum(read_story(runs.folder(run_id)).usd for run_id in begun)


def _begun_in(runs: Runs, moment: datetime) -> Iterator[Run]:
    """The runs of a calendar month; older ones are not looked at."""
    since, until = _bounds(f"{moment:%Y-%m}")
    after: str | None = None
    while page := runs.newest(limit=_PAGE, after=after):
        for run in page:
            began = datetime.fromtimestamp(run.created_at / 1000, UTC)
            if began < since:
                return
            if began < until:
                yield run
        after = page[-1].run_id


def used(db: Database) -> tuple[Used, ...]:
    """What each deployment was used for in each month, by month and name."""
    days = summarise(db, group_by=GroupBy.DAY)
    found = []
    for month in sorted({row.group[:7] for row in days}):
        since, until = _bounds(month)
        found += [
            Used(
                month=month,
                deployment=row.group,
                prompt_tokens=row.prompt_tokens,
                completion_tokens=row.completion_tokens,
                cached_tokens=row.cached_tokens,
            )
            for row in summarise(db, since=since, until=until, group_by=GroupBy.DEPLOYMENT)
        ]
    return tuple(found)


def _month(story: Story) -> str:
    return f"{datetime.fromtimestamp(story.run.created_at / 1000, UTC):%Y-%m}"


def _bounds(month: str) -> tuple[datetime, datetime]:
    """The first moment of a month, and that of the next one."""
    year, number = int(month[:4]), int(month[5:])
    return datetime(year, number, 1, tzinfo=UTC), datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
