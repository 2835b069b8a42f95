"""The report of a plan: one HTML file with the answer, plots of what would change it, and how it came about."""

from collections.abc import Iterator
from html import escape

from tandem.kit.errors import InvalidRequest
from tandem.kit.pages import Line, Point, between, page, percent, plot, section, size, span, table
from tandem.plan.catalogue import Cluster
from tandem.plan.derivation import Derivation
from tandem.plan.layout import Candidate, Job, rank_layouts
from tandem.plan.quote import Quote, Way
from tandem.plan.quote.pace import pace_of
from tandem.plan.reliability import Faults, checkpoint_cost, endure
from tandem.plan.scaling import LAWS
from tandem.plan.units import DAY_S, HOUR_S, parameters_text, usd_text
from tandem.plan.workshop import Factor

_MEMORY = ("weights", "gradients", "optimizer", "activations", "logits", "reserve")
_DECADES = 2  # of computing to each side of the plan
_POINTS = 33
_LAYOUTS = 8

_STYLE = """
.weights{background:#4c6ef5}.gradients{background:#7950f2}.optimizer{background:#ae3ec9}
.activations{background:#2f9e44}.logits{background:#f59f00}.reserve{background:#868e96}.free{background:transparent}
.bar{margin:2px 0 10px}.warn{color:var(--bad)}
"""


def report(found: Quote, cluster: Cluster, *, factor: Factor | None = None) -> str:
    """The report as HTML; `cluster` is the whole system that the quote was made for, `factor` its calibration."""
    title = (
        f"{parameters_text(found.model.parameters)} weights on {parameters_text(found.tokens)} tokens: a plan for "
        f"{found.system}"
    )
    sections = [
        _head(found, title),
        section("What would change it", _plots(found, cluster, factor)),
        section("Memory of a device, by layout", _layouts(found, cluster, factor)),
        section("Instead", _alternatives(found)),
        section("How it was found", _steps(found.derivation)),
        section("What it rests on", _basis(found.derivation)),
    ]
    return page(title, sections, style=_STYLE)


def _head(found: Quote, title: str) -> str:
    facts = {
        "loss, nats a token": between(found.loss_nats, lambda nats: f"{nats:.3f}") if found.knows_loss else "not known",
        "time": between(found.wall_s, span),
        "cost": between(found.cost_usd, usd_text) if found.cost_usd.mid else "not known",
        "devices": f"{found.devices:,}",
        "MFU": percent(found.layout.step.mfu_share),
        "goodput": between(found.goodput_share, percent),
        "interruptions": between(found.interruptions, lambda count: f"{count:,.0f}"),
        "save each": span(found.checkpoint_every_s),
    }
    cells = "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    warnings = "".join(f"<p class=warn>{escape(warning)}</p>" for warning in found.derivation.warnings)
    layout = f"<p class=soft>{escape(found.layout.layout.words)}</p>"
    return f"<h1>{escape(title)}</h1>{layout}<dl class=facts>{cells}</dl>{warnings}"


def _plots(found: Quote, cluster: Cluster, factor: Factor | None) -> str:
    drawn = (
        _loss_plot(found),
        _cost_plot(found, cluster, factor),
        _goodput_plot(found, cluster),
    )
    return f"<div class=plots>{''.join(drawn)}</div>"


def _loss_plot(found: Quote) -> str:
    """The best loss of each law by computing, and the plan."""
    steps = [10 ** (_DECADES * (2 * place / (_POINTS - 1) - 1)) for place in range(_POINTS)]
    lines = [
        Line(
            name=f"best by {law.name}",
            points=[(found.flop * step, law.optimum(found.flop * step).loss_nats.mid) for step in steps],
            style="main" if law.name == found.ask.law else "faint",
        )
        for law in LAWS.values()
    ]
    lines.append(Line(name="the plan", points=[(found.flop, found.loss_nats.mid)], style="held", dots=True))
    return plot(lines, across="FLOP", title="Loss against computing, nats a token", log_across=True)


def _cost_plot(found: Quote, cluster: Cluster, factor: Factor | None) -> str:
    """The same model and tokens on other numbers of hosts: what they cost against how long they take."""
    priced = cluster.price is not None
    ways = list(_over_hosts(found, cluster, factor))
    points: list[Point] = [
        (way.wall_s.mid / DAY_S, way.cost_usd.mid if priced else way.devices * way.wall_s.mid / HOUR_S) for way in ways
    ]
    plan = (found.wall_s.mid / DAY_S, found.cost_usd.mid if priced else found.devices * found.wall_s.mid / HOUR_S)
    return plot(
        [
            Line(name="other numbers of hosts", points=sorted(points), style="main"),
            Line(name="the plan", points=[plan], style="held", dots=True),
        ],
        across="days",
        title="Cost against time, US dollars" if priced else "Device hours against time",
        log_across=True,
    )


def _over_hosts(found: Quote, cluster: Cluster, factor: Factor | None) -> Iterator[Way]:
    """From an eighth to eight times the plan's hosts, as far as there are as many and the model fits."""
    for doubling in range(-3, 4):
        hosts = round(found.hosts * 2.0**doubling)
        if hosts < 1 or hosts > cluster.hosts or hosts * 2**-doubling != found.hosts:
            continue
        try:
            pace = pace_of(
                found.model,
                cluster.of_hosts(hosts),
                found.ask,
                batch_flop=found.flop,
                factor=factor,
                samples=found.samples,
            )
            yield pace.way(found.tokens, name="", why="")
        except InvalidRequest:
            continue  # it does not fit on so few, or the batch cannot be dealt to so many


def _goodput_plot(found: Quote, cluster: Cluster) -> str:
    """Goodput against the interval between saves, and the plan's interval."""
    used = cluster.of_hosts(found.hosts)
    faults = Faults.of(used, checkpoint_s=checkpoint_cost(found.model.parameters, used).save_s)
    points = []
    for place in range(_POINTS):
        interval_s = found.checkpoint_every_s * 30 ** (2 * place / (_POINTS - 1) - 1)
        if interval_s <= found.useful_s:
            try:
                endured = endure(found.useful_s, faults, interval_s=interval_s)
            except InvalidRequest:
                continue  # saved so seldom, it never finishes
            points.append((interval_s / 60, 100 * endured.goodput_share.mid))
    return plot(
        [
            Line(name="", points=points),
            Line(
                name="the plan",
                points=[(found.checkpoint_every_s / 60, 100 * found.goodput_share.mid)],
                style="held",
                dots=True,
            ),
        ],
        across="minutes between saves",
        title="Goodput against the checkpoint interval, %",
        log_across=True,
    )


def _layouts(found: Quote, cluster: Cluster, factor: Factor | None) -> str:
    job = Job(model=found.model, samples=found.samples, precision=found.ask.precision)
    ratio = factor.ratio.mid if factor else 1.0
    ranking = rank_layouts(job, cluster.of_hosts(found.hosts), factor_ratio=ratio, keep=_LAYOUTS)
    key = "".join(f'<i class="swatch {name}"></i>{name} ' for name in _MEMORY)
    return f"<p class=soft>{key}</p>{''.join(map(_layout, (ranking.best, *ranking.others)))}"


def _layout(one: Candidate) -> str:
    memory = one.memory
    parts = [(name, getattr(memory, f"{name}_bytes")) for name in _MEMORY]
    parts.append(("free", max(0.0, memory.device_bytes - memory.total_bytes)))
    bar = "".join(f'<span class="{name}" style="flex:{held / memory.device_bytes:.4f}"></span>' for name, held in parts)
    told = f"{size(memory.total_bytes)} of {size(memory.device_bytes)}, {span(one.step.total_s)} a step"
    return f"<p>{escape(one.layout.words)}: {told}</p><p class=soft>{escape(one.why)}</p><div class=bar>{bar}</div>"


def _alternatives(found: Quote) -> str:
    rows = [
        (
            one.name,
            parameters_text(one.model.parameters),
            parameters_text(one.tokens),
            f"{one.devices:,}",
            span(one.wall_s.mid),
            usd_text(one.cost_usd.mid) if one.cost_usd.mid else "",
            one.why,
        )
        for one in found.alternatives
    ]
    return table(("way", "weights", "tokens", "devices", "time", "cost", ""), rows) if rows else ""


def _steps(derivation: Derivation) -> str:
    rows = [(step.what, step.formula, step.value, step.source) for step in derivation.steps]
    return table(("step", "by", "is", "source"), rows)


def _basis(derivation: Derivation) -> str:
    told = [*derivation.rows, *derivation.conventions]
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in told)}</ul>"
