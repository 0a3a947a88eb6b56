"""The page of a rollout: what happened and what it cost or saved first; then the figure; then the whole history, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from include.jobs import rollout_chart
from include.jobs.html_page import ABSENT, day_in_words, page, sentence, share, significant, table, text, threshold
from include.lifecycle.as_of import utc
from include.lifecycle.domain import Domain, Rollout
from include.lifecycle.experiment import Contender, Entry, Experiment
from include.lifecycle.guardrails import Reading
from include.lifecycle.rollout_evidence import MISSING_REVIEWS

_STYLE = (
    rollout_chart.STYLE
    + """
.verdict { border-left: .5rem solid var(--grey); padding: .9rem 1.2rem; margin: 1.2rem 0; background: var(--panel); break-inside: avoid }
.verdict.good { border-color: var(--good) } .verdict.bad { border-color: var(--bad) } .verdict.warn { border-color: var(--orange) }
.verdict strong { font-size: 1.4em; display: block } .verdict p { margin: .35rem 0 }
.history td:nth-child(5) { text-align: left; min-width: 18rem; overflow-wrap: anywhere }
.history th:nth-child(5), .history td:nth-child(2), .history th:nth-child(2), .history td:nth-child(6), .history th:nth-child(6),
.history td:nth-child(7), .history th:nth-child(7) { text-align: left }
.history td:first-child, .history td:nth-child(2), .history .whole { white-space: nowrap } .history td:nth-child(7) { min-width: 13rem }
.trip { color: var(--bad) }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0 } .facts dt { color: var(--muted) }
.facts dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 34rem) { .facts { grid-template-columns: 1fr } .facts dd { margin-bottom: .4rem } body { margin-top: 1rem } }
"""
)
_ENDS = {
    "promoted": ("The challenger was promoted", "good"),
    "rolled_back": ("The challenger was rolled back", "bad"),
    "undecided": ("The rollout ended undecided, and the champion stays", "warn"),
    "stopped": ("The rollout was stopped, and the champion stays", "warn"),
}
_STAGES = {
    "shadow": "The challenger is in shadow", "proven": "The challenger is proven in shadow, and waits for the ramp",
    "ramp": "The challenger is in the ramp", "safe": "The challenger is safe, and waits for its promotion",
}  # fmt: skip
_BANDITS = {
    "thompson": "Thompson sampling", "top_two_thompson": "top-two Thompson sampling", "epsilon_greedy": "ε-greedy", "ucb1": "UCB1", "fixed": "fixed",
}  # fmt: skip


def html_report(domain: Domain, experiment: Experiment, entries: Sequence[Entry], evidence: Mapping[str, Mapping[str, Any] | None]) -> str:
    """``entries``: in order, one at least; ``evidence``: evidence.json of "shadow" and "ramp", the last of each, or None."""
    currency = domain.costs.currency
    what = rollout_chart.drawn(experiment, entries)
    body = [
        f"<h1>{text(domain.title)}: rollout of a challenger</h1>",
        f'<p class="note">Experiment {text(experiment.id)}, from {day_in_words(experiment.opened)} to {day_in_words(entries[-1].as_of)} in the '
        "data's time.</p>",
        _verdict(experiment, entries, evidence, currency),
        _figure(what, experiment, currency),
        "<h2>Every decision</h2>",
        f'<div class="scroll">{_history(entries, currency)}</div>',
        "<h2>The two models, and the rules</h2>",
        _rules(domain, experiment),
    ]
    return page(f"Rollout: {domain.title}", body, _STYLE)


def headline(experiment: Experiment, entries: Sequence[Entry]) -> str:
    """What happened and when, as plain text without a full stop."""
    end = next((entry for entry in entries if entry.stage == experiment.stage), entries[-1])
    if experiment.stage not in _ENDS:
        return f"{_STAGES[experiment.stage]}, since {day_in_words(end.as_of)}"
    days = (utc(end.as_of).date() - utc(experiment.opened).date()).days
    return f"{_ENDS[experiment.stage][0]} on {day_in_words(end.as_of)}, {days} day{'' if days == 1 else 's'} after it began"


def price(entries: Sequence[Entry], evidence: Mapping[str, Mapping[str, Any] | None], currency: str) -> str:
    """What its live decisions cost or saved so far, in a sentence of plain text."""
    if not any(entry.share > 0 for entry in entries):
        return "It never decided for anybody, so it cost nothing."
    looks = [*(entry.evidence for entry in entries), evidence.get("ramp") or {}]
    extra = next((look["extra_cost"] for look in reversed(looks) if look.get("extra_cost") is not None and look.get("events")), None)
    if extra is None:
        return "What its live decisions cost is not known: the truth about none of these events was known by then."
    much = f"{significant(abs(extra))} {currency}"
    said = f"cost {much} less than" if extra < 0 else f"cost {much} more than" if extra > 0 else "cost as much as"
    return (
        f"While it decided for a part of the entities, its decisions {said} the champion's would have, on the events whose truth is known."
    )


def _verdict(experiment: Experiment, entries: Sequence[Entry], evidence: Mapping[str, Mapping[str, Any] | None], currency: str) -> str:
    style = _ENDS.get(experiment.stage, ("", ""))[1]
    why = f"<p>{sentence(experiment.why)}</p>" if experiment.why else ""
    return (
        f'<div class="verdict {style}"><strong>{headline(experiment, entries)}.</strong><p>{text(price(entries, evidence, currency))} '
        f"{_measured(evidence, currency)}{_missing_reviews(evidence)}</p>{why}</div>"
    )


def _measured(evidence: Mapping[str, Mapping[str, Any] | None], currency: str) -> str:
    """Of the later stage that has evidence of both ends: HTML."""
    for stage, where in (("ramp", "In the ramp"), ("shadow", "In shadow")):
        found = evidence.get(stage) or {}
        difference = found.get("difference") or {}
        if any(difference.get(end) is None for end in ("value", "low", "high")):
            continue
        champion = (found.get("cost") or {}).get("champion")
        relative = f", {share(abs(difference['value']) / champion)} of its cost" if champion else ""
        low, high = (significant(difference[end], sign="+") for end in ("low", "high"))
        return (
            f"{where}, an event cost {significant(abs(difference['value']))} {text(currency)} "
            f"{'less' if difference['value'] < 0 else 'more'} than under the champion{relative} ({low} to {high}, each end at every look with a "
            f"chance of {share(1 - difference['error_rate'])}; {found['events']:,} events, {found['frauds']:,} of them fraud)."
        )
    return "There was too little to measure a difference in cost."


def _missing_reviews(evidence: Mapping[str, Mapping[str, Any] | None]) -> str:
    found = evidence.get("ramp") or evidence.get("shadow") or {}
    drawn, missing = found.get("reviews_drawn") or 0, found.get("reviews_missing") or 0
    if not missing:
        return ""
    silent = "; nothing is concluded while so many are missing" if missing > MISSING_REVIEWS * drawn else ""
    return f" Of {drawn:,} reviews that a lot drew, {missing:,} have no label{silent}."


def _figure(what: rollout_chart.Drawn, experiment: Experiment, currency: str) -> str:
    charts = "".join(
        f'<div class="{style}">{rollout_chart.chart(what, currency, width)}</div>'
        for style, width in (("wide", rollout_chart.WIDE), ("narrow", rollout_chart.NARROW))
    )
    sure = share(1 - experiment.policy.error_rate)
    return (
        f"<figure>{charts}{rollout_chart.legend(what)}<figcaption>Top: the share of the entities that the challenger decided for, and the cap on it. "
        "Middle: difference in mean cost of an event, at each look, first in shadow, then in the ramp, with its confidence sequence, each end of "
        f"which holds at all looks at once with a chance of {sure}; wholly below 0 the challenger is cheaper, wholly below the margin (orange "
        "dashes) not worse. Bottom: what the guardrails read; beyond 1 the limit is exceeded, and red dots tripped.</figcaption></figure>"
    )


def _history(entries: Sequence[Entry], currency: str) -> str:
    heads = ["As of", "Stage", "Share", "Cap", "What was decided", "By", f"Evidence, {text(currency)} an event"]
    rows = [
        [_when(entry.as_of), text(entry.stage.replace("_", " ")), share(entry.share), share(entry.cap), sentence(entry.says), text(entry.who),
         _evidence(entry, currency)]
        for entry in entries
    ]  # fmt: skip
    return table(heads, rows, "history")


def _when(instant: str) -> str:
    moment = utc(instant)
    return f"{moment.day} {moment:%b %Y}" + (f", {moment:%H:%M}" if moment.time() != moment.min.time() else "")


def _evidence(entry: Entry, currency: str) -> str:
    found = entry.evidence
    difference = found.get("difference") or {}
    parts = []
    if difference.get("value") is not None:
        low, high = (significant(difference.get(end), sign="+") for end in ("low", "high"))
        ends = f" ({low} to {high})" if (low, high) != (ABSENT, ABSENT) else ""
        parts.append(f'<span class="whole">{significant(difference["value"], sign="+")}{ends}</span>')
    if found.get("events") is not None:
        parts.append(f"{found['events']:,} events, {found.get('frauds') or 0:,} fraud")
    if found.get("extra_cost") is not None and found.get("events"):
        parts.append(f"live so far {significant(found['extra_cost'], sign='+')} {text(currency)}")
    readings = [Reading(**each) for each in found.get("readings") or ()]
    parts += [f'<span class="trip">{sentence(reading.says)}</span>' for reading in readings if reading.tripped]
    beyond = [reading.name for reading in readings if reading.beyond and not reading.tripped]
    unjudged = [reading.name for reading in readings if reading.value is None and not reading.tripped]
    if beyond:
        parts.append(f"beyond the limit, perhaps by chance: {_listed(beyond)}")
    if unjudged:
        parts.append(f"not judged: {_listed(unjudged)}")
    if readings and not any(reading.beyond or reading.value is None for reading in readings):
        parts.append("guardrails: all within limits")
    return "<br>".join(parts) or ABSENT


def _listed(names: Sequence[str]) -> str:
    return text(", ".join(name.replace("_", " ") for name in names))


def _rules(domain: Domain, experiment: Experiment) -> str:
    policy, currency = experiment.policy, domain.costs.currency
    facts = [
        ("Champion", _model(experiment.champion, currency)),
        ("Challenger", _model(experiment.challenger, currency)),
        ("Endpoint", text(experiment.endpoint)),
        ("Chance to promote a model that is not better", share(policy.error_rate)),
        ("Not worse means", f"by less than {share(policy.non_inferiority_margin)} of the champion's cost"),
        ("Caps", f"{', '.join(map(share, policy.caps))}, a step every {policy.epochs_per_step} epochs; floor {share(policy.minimum_share)}"),
        ("Share moved by", f"{_BANDITS[policy.bandit]}, discount {threshold(policy.discount_per_day)} a day"),
        ("Reviewed by lot", _by_lot(domain, policy)),
    ]  # fmt: skip
    return f'<dl class="facts">{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)}</dl>'


def _by_lot(domain: Domain, policy: Rollout) -> str:
    said = f"{share(policy.random_review_share)} of all events"
    if domain.label.known_for == "every_event":
        return said
    return f"{said}, and {share(policy.disagreement_review_share)} of those about which the models disagree and the deciding one asks for no review"


def _model(contender: Contender, currency: str) -> str:
    return f"{text(contender.model_package)}, asks for a review above an expected benefit of {threshold(contender.review_threshold)} {text(currency)}"
