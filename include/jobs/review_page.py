"""``queue.html`` of a day: the review queue for the analyst who works through it, in one file without script, fit for printing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from include.jobs.html_page import page
from include.lifecycle.domain import Domain
from include.lifecycle.explain import Reason
from include.lifecycle.review_queue import QueuedEvent, odds_factor, value_in_words

_STYLE = """
body { line-height: 1.45; max-width: 84rem }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 2.4rem; margin: 1rem 0 1.2rem; padding: .8rem 1.2rem; background: var(--panel) }
.facts div { display: flex; flex-direction: column } .facts strong { font-size: 1.15rem; font-variant-numeric: tabular-nums }
.facts span, .note { color: var(--muted); font-size: .88rem }
table { width: 100% } th, td { text-align: left; padding: .45rem .7rem } th.number, td.number { text-align: right; white-space: nowrap }
.id { overflow-wrap: anywhere; max-width: 11rem } .why { width: 52% }
ul { margin: 0; padding: 0; list-style: none; columns: 2; column-gap: 1.2rem; font-size: .9rem }
li { break-inside: avoid; padding-left: 1.1rem; text-indent: -1.1rem }
li b { font-weight: 600 } .raises b { color: var(--bad) } .lowers b { color: var(--good) }
.known { display: inline-block; padding: 0 .4rem; border: 1px solid var(--bad); color: var(--bad); font-size: .82rem; white-space: nowrap }
.warning { border-left: .4rem solid var(--orange); padding: .5rem 1rem; background: var(--warm) }
@media print { body { font-size: 10.5px } .facts { background: none; border: 1px solid var(--edge) } }
"""


def queue_page(domain: Domain, queue: Sequence[QueuedEvent], found: Mapping[str, Any], model: str, model_as_of: str) -> str:
    """The page. ``found``: the day's facts, as score-batch reports them. ``model``: its package or URI."""
    money = domain.costs.currency
    facts = [
        (f"{len(queue):,}", f"to review, of {found['capacity']:,} the capacity allows"),
        (f"{found['rows']:,}", "events of the day"),
        (_money(found["expected_benefit"], money), "expected to be saved by these reviews"),
        (_money(sum(event.amount for event in queue), money), "at stake in them"),
    ]
    body = [
        f"<h1>{escape(domain.title)}: review queue of {found['day']}</h1>",
        f'<p class="note">Scored with {escape(model)}, trained as of {escape(model_as_of)}. Times are UTC.</p>',
        '<div class="facts">' + "".join(f"<div><strong>{fact}</strong><span>{escape(name)}</span></div>" for fact, name in facts) + "</div>",
    ]
    if found["model_has_seen_the_day"]:
        body.append(
            '<p class="warning">The model was trained on events of this day or of later ones: these scores look better than they would have been'
            " on the day.</p>"
        )
    if found["features_are_stale"]:
        body.append(
            '<p class="warning">Events or labels were ingested after the features of this day were computed: events of the day may be missing'
            " here, and scores may change. Compute the features (build-features), and score the day again.</p>"
        )
    body.append(_table(domain, queue) if queue else "<p>No event of the day is worth a review: none is expected to save more than it costs.</p>")
    body.append(
        f'<p class="note">In the order of what a review is expected to save: score × {domain.costs.missed_share:.0%} of the amount − '
        f"{_money(domain.costs.review, money)} for the review. The score is the probability of fraud. Why: the values that moved the score most;"
        " ▲ × multiplies the odds of fraud, ▼ ÷ divides them. Known fraud: when the day ended, an event of the same"
        f" {escape(_name(domain.entity))} was known to be fraud."
        ' Write decisions into <a href="queue.csv">queue.csv</a>, beside this page: label 1 or fraud, 0 or genuine; empty is undecided.</p>'
    )
    title = f"Review queue of {found['day']}: {domain.title}"
    return page(title, body, _STYLE)


def _table(domain: Domain, queue: Sequence[QueuedEvent]) -> str:
    money = escape(domain.costs.currency)
    heads = [("", "number"), (_name(domain.event_id), ""), ("time", ""), (_name(domain.entity), ""), (f"amount, {money}", "number"),
             ("score", "number"), (f"to save, {money}", "number"), ("why", "why")]  # fmt: skip
    if domain.entity == domain.event_id:
        heads.pop(3)
    head = "".join(f'<th class="{style}">{escape(name)}</th>' for name, style in heads)
    rows = "\n".join(_row(domain, event) for event in queue)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _row(domain: Domain, event: QueuedEvent) -> str:
    since = event.known_fraud_since
    known = f'<br><span class="known">known fraud since {since:%Y-%m-%d}</span>' if since else ""
    entity = "" if domain.entity == domain.event_id else f'<td class="id">{escape(event.entity_id)}{known}</td>'
    return (
        f'<tr><td class="number">{event.rank}</td><td class="id">{escape(event.event_id)}{"" if entity else known}</td>'
        f"<td>{event.event_time:%H:%M:%S}</td>{entity}"
        f'<td class="number">{event.amount:,.2f}</td><td class="number">{event.score:.3f}</td>'
        f'<td class="number">{event.expected_benefit:,.2f}</td><td><ul>{"".join(map(_why, event.reasons))}</ul></td></tr>'
    )


def _why(reason: Reason) -> str:
    kind, sign = ("raises", "▲ ×") if reason.contribution > 0 else ("lowers", "▼ ÷")
    return f'<li class="{kind}"><b>{sign} {odds_factor(reason)}</b> {escape(value_in_words(reason))}</li>'


def _name(column: str) -> str:
    return column.replace("_", " ")


def _money(value: float, currency: str) -> str:
    return f"{value:,.0f} {escape(currency)}"
