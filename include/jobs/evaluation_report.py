"""``report.html`` of an evaluation: one file without script, for the analyst who has to say yes or no. The verdict comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from include.jobs.html_page import ABSENT, metric_value, page, table
from include.jobs.svg import Series, bar, line_chart, percent
from include.lifecycle.bias import NAMES
from include.lifecycle.domain import Domain
from include.lifecycle.evaluation import METRICS
from include.lifecycle.gate import Verdict

_RANKED = 15
_SMALL_GROUP = 100
_STYLE = """
body { max-width: 62rem }
.verdict { border-left: .5rem solid; padding: .8rem 1.2rem; margin: 1.2rem 0; background: var(--panel) }
.verdict.passed { border-color: var(--good) } .verdict.failed { border-color: var(--bad) }
.verdict strong { font-size: 1.2rem } ul { margin: .4rem 0; padding-left: 1.2rem }
table { width: 100% } td:not(:first-child) { white-space: nowrap } .examples th:last-child, .examples td:last-child { text-align: left }
"""


def html_report(domain: Domain, evaluation: Mapping[str, Any], bias: Mapping[str, Any], reasons: Mapping[str, Any], verdict: Verdict) -> str:
    """The page, from the contents of evaluation.json, bias.json and explainability.json."""
    events = evaluation["events"]
    body = [
        f"<h1>{escape(domain.title)}: evaluation of a model</h1>",
        f'<p class="note">As of {escape(evaluation["model"]["as_of"])}. Measured on {events["rows"]:,} events from '
        f"{escape(events['first_event'])} to {escape(events['last_event'])}, {events['positives']:,} of them fraud "
        f"({percent(events['prevalence'])}), none of which the model has seen.</p>",
        _verdict(verdict),
        _metrics(domain, evaluation),
        _charts(domain, evaluation),
        _reasons(reasons),
        _bias(bias),
        _model(evaluation),
    ]
    return page(f"Evaluation: {domain.title}", body, _STYLE)


def _verdict(verdict: Verdict) -> str:
    word = "The gate is passed." if verdict.passed else "The gate is not passed."
    items = "".join(
        f"<li>{'✓' if check.passed else '✗'} {escape(check.reason)}</li>" for check in sorted(verdict.checks, key=lambda c: c.passed)
    )
    return f'<div class="verdict {"passed" if verdict.passed else "failed"}"><strong>{word}</strong><ul>{items}</ul></div>'


def _metrics(domain: Domain, evaluation: Mapping[str, Any]) -> str:
    champion = evaluation["champion"]
    compared = bool(champion and champion["metrics"])
    heads = ["Metric", "Value", f"{evaluation['confidence']:.0%} interval", *(["Champion", "Difference", "Interval"] if compared else [])]
    rows = []
    for name, label in METRICS.items():
        if name not in evaluation["metrics"]:
            continue
        cells = [f"{label}, {escape(domain.costs.currency)}" if name == "expected_cost" else label, *_interval(name, evaluation["metrics"][name])]
        if compared:
            cells += [_interval(name, champion["metrics"][name])[0], *_interval(name, champion["differences"][name], signed=True)]
        rows.append(cells)
    review, costs = domain.review, domain.costs
    capacity = f"{review.per_day} events a day" if review.share is None else f"{percent(review.share)} of each day's events"
    notes = [
        f"Review capacity: {capacity}. A review costs {costs.review:,.0f} {escape(costs.currency)}, a missed fraud "
        f"{percent(costs.missed_share)} of its amount. Savings are relative to reviewing nothing; an event is worth a review where its "
        "score times that share of its amount exceeds the cost of a review.",
        *(escape(note) for note in (champion["notes"] if champion else ())),
    ]
    return "<h2>How good it is</h2>" + table(heads, rows) + "".join(f'<p class="note">{note}</p>' for note in notes)


def _charts(domain: Domain, evaluation: Mapping[str, Any]) -> str:
    curves, measured = evaluation["curves"], evaluation["metrics"]
    prevalence = evaluation["events"]["prevalence"]
    curve = curves["precision_recall"]
    at_capacity = [measured[name]["value"] for name in ("recall_at_capacity", "precision_at_capacity")]
    highest = max(curve["precision"])
    precision_recall = line_chart(
        [
            Series("a random order", [0, 1], [prevalence, prevalence], "faint"),
            Series("this model", curve["recall"], curve["precision"]),
            Series("at the review capacity", [at_capacity[0]], [at_capacity[1]], "other", marks=True),
        ],
        "recall", "precision", x_range=(0, 1), y_range=(0, highest),
    )  # fmt: skip
    bins = curves["reliability"]
    mean, observed = [b["mean_score"] for b in bins], [b["fraud_share"] for b in bins]
    top = max(*mean, *observed)
    reliability = line_chart(
        [Series("perfect", [0, top], [0, top], "faint"), Series("bins of equal size", mean, observed), Series("", mean, observed, marks=True)],
        "mean score", "share of fraud", x_range=(0, top), y_range=(0, top),
    )  # fmt: skip
    figures = [
        (precision_recall, "Precision and recall. The dot is the review capacity; the dashed line is a random order."),
        (reliability, "Calibration: on the dashed line, scores are the share of fraud they promise."),
    ]
    if curves["savings"] is not None:
        figures.append((_savings(domain, curves["savings"]), "Savings by how much is reviewed. The dot is the most that can be saved."))
    inner = "".join(f"<figure>{chart}<figcaption>{caption}</figcaption></figure>" for chart, caption in figures)
    return f'<div class="charts">{inner}</div>'


def _savings(domain: Domain, saved: Mapping[str, Sequence[float]]) -> str:
    best = max(range(len(saved["savings"])), key=lambda i: saved["savings"][i])
    marks = [Series("the most that can be saved", [saved["share_reviewed"][best]], [saved["savings"][best]], "main", marks=True)]
    if domain.review.share is not None:
        marks.append(Series("the review capacity", [domain.review.share] * 2, [-0.5, 1], "faint"))
    return line_chart(
        [Series("reviewing nothing", [0, 1], [0, 0], "faint"), Series("this model", saved["share_reviewed"], saved["savings"]), *marks],
        "share of events reviewed, most worthwhile first", "savings", x_range=(0, 1), y_range=(-0.5, 1),
    )  # fmt: skip


def _reasons(content: Mapping[str, Any]) -> str:
    ranked = content["ranking"][:_RANKED]
    strongest = ranked[0]["share"] or 1.0
    ranking = table(
        ["Feature", "", "Share of all contributions", "Mean |contribution|"],
        [
            [escape(row["feature"]), bar(row["share"] / strongest), percent(row["share"]), f"{row['mean_absolute_contribution']:.3f}"]
            for row in ranked
        ],
    )
    examples = table(
        ["Event", "Score", "Turned out", "What moved the score most (log-odds)"],
        [
            [
                escape(str(example["event_id"])),
                f"{example['score']:.3f}",
                "fraud" if example["fraud"] else "genuine",
                "<br>".join(_reason(reason) for reason in example["reasons"]),
            ]
            for example in content["highest_scores"]
        ],
        "examples",
    )
    return (
        "<h2>What it looks at</h2>" + ranking + "<h2>The highest scores, and why</h2>" + examples
        + f'<p class="note">Contributions of the trees ({escape(content["method"])}), over {content["rows"]:,} events.</p>'
    )  # fmt: skip


def _reason(reason: Mapping[str, Any]) -> str:
    value = "missing" if reason["value"] is None else f"{reason['value']:.6g}"
    return f"{escape(reason['feature'])} = {value}: {reason['contribution']:+.2f}"


def _bias(content: Mapping[str, Any]) -> str:
    parts = ["<h2>Bias by facet</h2>"]
    for facet, found in content["facets"].items():
        groups = [found["reference"], *found["levels"]]
        heads = ["", *(escape("(missing)" if group["level"] is None else str(group["level"])) for group in groups)]
        heads[1] += " (reference)"
        rows = [
            ["Events", *(f"{group['events']:,}" for group in groups)],
            ["Fraud", *(_share(group["fraud_share"]) for group in groups)],
            ["Sent to review", *(_share(group["reviewed_share"]) for group in groups)],
        ]
        for name in NAMES:
            values = [(level["pre_training"] | level["post_training"])[name] for level in found["levels"]]
            rows.append([f"{name}: {escape(NAMES[name])}", "", *("–" if value is None else f"{value:.3f}" for value in values)])
        parts += [f"<h3>{escape(facet)}</h3>", table(heads, rows)]
    parts.append(
        '<p class="note">Each group against the reference, under the names of Amazon SageMaker Clarify; the favourable outcome is '
        f"{escape(content['favourable_label'])} as a label and {escape(content['favourable_prediction'])} as a decision. Groups of fewer than "
        f"{_SMALL_GROUP} events say little. – : undefined.</p>"
    )
    return "".join(parts)


def _share(value: float | None) -> str:
    return ABSENT if value is None else percent(value)


def _model(evaluation: Mapping[str, Any]) -> str:
    model = evaluation["model"]
    scaling = model["calibration"]
    calibration = "not needed" if scaling is None else f"log-odds × {scaling['slope']:.3f} {scaling['intercept']:+.3f}, folded into the trees"
    facts = [
        *((name, f"{part['rows']:,} events, {part['positives']:,} fraud, to {part['last_event']}") for name, part in model["training"].items()),
        ("trees", f"{model['trees']:,}"),
        ("features", f"{len(model['features']):,}"),
        ("calibration", calibration),
        *((f"hyperparameter {name}", str(value)) for name, value in sorted(model["hyperparameters"].items())),
        *((f"version of {name}", value) for name, value in sorted(model["versions"].items())),
    ]
    return "<h2>The model</h2>" + table(["", ""], [[escape(name), escape(value)] for name, value in facts])


def _interval(name: str, interval: Mapping[str, float | None], signed: bool = False) -> tuple[str, str]:
    value, low, high = (metric_value(name, interval[part], "+" if signed else "") for part in ("value", "low", "high"))
    return value, f"{low} to {high}"
