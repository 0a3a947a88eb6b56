"""The words a domain is written in: frozen dataclasses, standard library only, cheap to import while DAGs are parsed.

A domain (one fraud problem) is a folder under ``include/domains`` whose ``domain.py`` holds one ``DOMAIN = Domain(...)``. Everything that
differs between problems is said here or in the files beside it; nothing else in the project names a domain.

SQL expressions in this file are DuckDB's, evaluated while landed rows are curated. They may use the table's own columns and two values of
the delivery: ``delivered_at`` (TIMESTAMP, UTC, the midnight that ends the delivery's day) and ``delivery_year`` (INTEGER or NULL, the run's
``year`` parameter, for sources whose dates carry none).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

ColumnType = Literal["string", "integer", "float", "timestamp"]
TableKind = Literal["event", "reference"]

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


class DomainError(ValueError):
    """A domain's description contradicts itself. The message names the domain, the field and the mend."""


@dataclass(frozen=True)
class Column:
    """One column of a landed table. An empty cell is a null; every other string, "N/A" and "None" among them, is a value."""

    name: str
    type: ColumnType
    nullable: bool = False
    description: str = ""


@dataclass(frozen=True)
class Table:
    """A table as it lands, one or more files a delivery.

    kind "event": rows that happened once. ``event_time`` and ``available_at`` are SQL expressions.
    kind "reference": slowly changing facts about entities, without a time of their own. A first version holds from the beginning of time;
    a corrected version holds from its delivery. Both expressions stay empty.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    kind: TableKind = "event"
    event_time: str = ""
    available_at: str = ""
    required: bool = True
    """False: a history may do without this table; what the features take from it is then unknown."""
    description: str = ""

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


@dataclass(frozen=True)
class Label:
    """What is predicted, and when and how it becomes known.

    A label arrives either inline, in ``column`` of the event table (null while unknown; then known at ``available_at``, an SQL expression
    over the event table's columns plus ``event_time``), or in deliveries of the landing table ``labels``, one row a decision:
    the event's key, ``label`` (0 or 1) and ``decided_at`` (UTC). Both end in ``labels/`` with an event time and an available-at instant.
    """

    column: str
    available_at: str
    maturity: timedelta
    """After this long an event's label is final as far as training is concerned; younger events are left out of data sets."""
    unreported_is_genuine: bool = False
    """True where only fraud is ever reported (chargebacks): a matured event without a label counts as genuine. False: it is left out."""
    known_for: Literal["every_event", "reviewed_events"] = "every_event"
    """"reviewed_events": the truth is only ever found out where somebody looked (selective labels). What such labels say is weighed by the inverse
    of the chance that the event was reviewed; that chance is above 0 for every event only because of ``Rollout.random_review_share``."""
    description: str = ""


@dataclass(frozen=True)
class Costs:
    """Money. A review costs ``review``; a fraud that is not reviewed costs ``missed_share`` of the event's amount."""

    currency: str
    review: float
    missed_share: float = 1.0


@dataclass(frozen=True)
class ReviewCapacity:
    """How many events analysts can look at: a number a day, or a share of the day's events. Exactly one is set."""

    per_day: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Facet:
    """A group attribute for bias reports: the text column ``facet_<name>`` of the features. Every other value is compared with ``reference``."""

    name: str
    reference: str
    description: str = ""

    @property
    def column(self) -> str:
        return f"facet_{self.name}"


@dataclass(frozen=True)
class Schedules:
    """Cron expressions, UTC. ``ingest`` None: only by hand.

    ``lookback``: a scheduled run of ``ingest_data`` takes the deliveries of this many days before its own too. Taking a file again changes
    nothing, so a late file, or the days of an outage, are made up for by the next run.
    """

    ingest: str | None = "0 4 * * *"
    lookback: timedelta = timedelta(days=7)
    train: str = "0 6 1 * *"
    monitor: str = "0 7 * * *"
    retrain: str = "0 8 15 * *"


@dataclass(frozen=True)
class TrainingWindow:
    """Which matured events a model is trained, validated and tested on: the last ``window`` before maturity, split by time.

    ``validation`` and ``test``: how much of the window's end each part takes, as a share of its events or as a length of time (both alike);
    training has the rest. ``test_delay``: events of this long before the test part are left out, as they are when a model goes live: it
    scores events that are at least a label's delay younger than the last one it learned from.

    ``groups``: what is done about a leakage group (a policy, a card) that occurs in several parts. "in_one_part": it gives up its rows in
    the earlier ones. "known_fraud_removed": its rows stay, for customers do return; but once a fraud of the group in this window is known, at
    the midnight before an event, its later events are no part of validation and test: the card has been blocked (Le Borgne et al. 2022,
    Fraud Detection Handbook, §5.2).
    """

    window: timedelta
    validation: float | timedelta = 0.2
    test: float | timedelta = 0.2
    test_delay: timedelta = timedelta(0)
    groups: Literal["in_one_part", "known_fraud_removed"] = "in_one_part"
    minimum_events: int = 1000
    minimum_positives: int = 30


@dataclass(frozen=True)
class Gate:
    """When a model may go live: it must be worth something by itself, and, where there is a champion, not be worse on the same later events.

    Champion or not:

    - ``minimum_average_precision_lift``: average precision over the prevalence (what a random order gets) must be at least this;
    - ``maximum_relative_calibration_error``: the lower confidence bound of the expected calibration error, over the prevalence, may be at
      most this. Relative, because the largest error that too low scores can make is the prevalence itself: at 3 % fraud no absolute limit
      above .03 ever holds them back. At the default, scores are off by half of the average risk. The lower bound, because chance alone
      makes a perfectly calibrated model miss by .2 of the prevalence with ninety frauds in the test part, by .4 with twenty-five;
    - the lower confidence bound of the savings must be above 0: a model has to be shown to be better than reviewing nothing.

    With a champion, in paired differences: the upper confidence bound in average precision must not be below 0, and the lower one in
    savings (share of the cost without a model) must be above minus ``non_inferiority_margin``.
    """

    minimum_average_precision_lift: float = 1.5
    maximum_relative_calibration_error: float = 0.5
    non_inferiority_margin: float = 0.02
    confidence: float = 0.95


@dataclass(frozen=True)
class Approval:
    """Who releases a model of ``train_model``. automatic: the gate's word is enough. Otherwise one of ``approvers`` (Airflow user names) decides.
    They are asked during a rollout only where ``Rollout`` says so: there, evidence from live traffic releases a model."""

    automatic: bool = False
    approvers: tuple[str, ...] = ()
    response_within: timedelta = timedelta(days=7)


FindingKind = Literal[
    "data_quality",
    "feature_drift",
    "score_drift",
    "multivariate_drift",
    "quality",
    "estimated_quality",
    "concept_drift",
    "bias_drift",
    "attribution_drift",
]
FINDING_KINDS: tuple[FindingKind, ...] = get_args(FindingKind)
"""What monitoring can find, worst first."""


@dataclass(frozen=True)
class Monitoring:
    """What is watched, and when people are woken.

    One number sets how often that may happen for nothing: ``false_alarms_per_year``. Each day's window has the share of one day of it, each kind
    of finding that warns or alarms an equal share of that (they are families of tests), and a family's tests are corrected for their number.

    ``window``: how many days of scored events one analysis looks at. They end ``reporting_delay`` before its as-of: by then a day's events are all
    known. ``quality_window``: how many days of matured events the measured quality is of; these end a label's maturity before the as-of.

    A drift needs to be significant, and to have a size worth waking someone for:

    - ``minimum_effect``: Jensen-Shannon distance (base 2; 0: equal, 1: nothing in common) between window and baseline, what chance alone adds taken
      out, of a feature, the score and the multivariate check. .03 is about a shift by .07 standard deviations. ``minimum_effect_of``: by column;
    - ``minimum_missing``: change in a column's share of missing, infinite, invalid or unseen values;
    - ``minimum_row_count_ratio``: rows a day below this share of the baseline's, or above its inverse;
    - ``minimum_quality_loss``: by metric of the evaluation, how much it must have fallen (costs and errors: risen), in the metric's own unit;
    - ``minimum_bias_change``: change of the difference in review shares between a facet's level and its reference;
    - ``minimum_ndcg``: attribution drift is found below this normalised discounted cumulative gain of the baseline's ranking of features.

    ``alarm_on``, ``warn_on``: which findings ring the alarm, which only stand in the report and in the log. An alarm rings when the window and the
    ``windows_in_a_row`` - 1 before it found the same kind, and not again within ``cool_down``.

    ``capture_percentage``: of the endpoint's requests, how many are kept.
    """

    window: timedelta = timedelta(days=7)
    reporting_delay: timedelta = timedelta(0)
    quality_window: timedelta = timedelta(days=28)
    false_alarms_per_year: float = 2.0
    minimum_effect: float = 0.03
    minimum_effect_of: Mapping[str, float] = field(default_factory=dict, hash=False)
    minimum_missing: float = 0.01
    minimum_row_count_ratio: float = 0.5
    minimum_quality_loss: Mapping[str, float] = field(
        default_factory=lambda: {"average_precision": 0.05, "roc_auc": 0.02, "recall_at_capacity": 0.05, "savings": 0.05},
        hash=False,  # a domain is a key of caches
    )
    minimum_bias_change: float = 0.05
    minimum_ndcg: float = 0.9
    alarm_on: tuple[FindingKind, ...] = ("data_quality", "feature_drift", "score_drift", "multivariate_drift", "quality", "concept_drift")
    warn_on: tuple[FindingKind, ...] = ("estimated_quality", "bias_drift", "attribution_drift")
    windows_in_a_row: int = 2
    cool_down: timedelta = timedelta(days=14)
    capture_percentage: int = 100

    @property
    def families(self) -> int:
        """Kinds of findings that share the false alarms."""
        return len({*self.alarm_on, *self.warn_on})

    @property
    def level(self) -> float:
        """Significance level of one family of tests on one daily window."""
        return self.false_alarms_per_year / 365 / self.families


BanditName = Literal["thompson", "top_two_thompson", "epsilon_greedy", "ucb1", "fixed"]


@dataclass(frozen=True)
class Guardrails:
    """When the challenger loses its traffic at once. Each limit is on what the gateways counted since the last change of its share, challenger
    against champion, and is judged from ``minimum_requests`` of the challenger on. No count is not a healthy count: without a sign of life from a
    gateway for ``heartbeat``, traffic returns to the champion too.

    - ``maximum_error_share``: of the challenger's requests, those that failed or were answered by the champion instead, above the champion's share;
    - ``maximum_p99_latency_ms``, and ``maximum_p99_latency_ratio`` to the champion's (it trips where both are exceeded);
    - ``maximum_review_ratio``: reviews asked for a request, to the champion's, and its inverse: a flood of alerts, or silence;
    - ``maximum_score_distance``: Jensen-Shannon distance (base 2) of its scores from those it gave in shadow;
    - ``sample_ratio_level``: chance of a false alarm, over the whole ramp, that entities are not split as the shares say.
    """

    minimum_requests: int = 100
    maximum_error_share: float = 0.02
    maximum_p99_latency_ms: float = 250.0
    maximum_p99_latency_ratio: float = 3.0
    maximum_review_ratio: float = 4.0
    maximum_score_distance: float = 0.35
    sample_ratio_level: float = 0.001
    heartbeat: timedelta = timedelta(minutes=2)


@dataclass(frozen=True)
class Rollout:
    """How a retrained model proves itself, and how it takes the traffic.

    Retraining: ``wanted_frauds`` matured since the drift began (None: as many as it takes to see a loss of recall of
    ``Monitoring.minimum_quality_loss["recall_at_capacity"]`` with a power of .8), waited for until ``wait_at_most`` after the
    alarm; then ``at_deadline`` says whether to train with what there is, or to give up. ``training``: the window and parts of such a
    training; None: the domain's.

    Shadow: the challenger scores a copy of the traffic for ``shadow_at_least`` of matured events, and until the confidence sequence of the paired
    difference in cost, at ``error_rate``, lies below 0 (proven), or above (rolled back); without either, ``shadow_at_most`` days of matured events
    end it as undecided.

    Ramp: the challenger decides for a share of the entities, which ``bandit`` moves between ``minimum_share`` and the cap. The cap goes through
    ``caps``, a step every ``epochs_per_step`` epochs in which nothing was wrong; shares change when the data's time crosses an epoch, and while
    one stands, an entity stays with its variant for an epoch. Where labels take longer than the epochs of all steps together, guardrails alone
    protect until the first events of the ramp have matured. At the last cap the ramp ends as safe when the upper end of the confidence sequence
    of the difference in cost lies below ``non_inferiority_margin`` (a share of the champion's cost), with ``ramp_at_least`` epochs of matured
    events; it ends as undecided after ``ramp_at_most``.

    ``discount_per_day``: what a day takes of the weight of what the bandit has learned. ``random_review_share``: of all events, reviewed whatever
    the score, so that what no model flags is known, too. ``disagreement_review_share``: where only reviewed events get a label, reviewed
    of the events about which the models disagree and the deciding one asks for no review: these alone tell what the other would have
    saved (``reviews.csv`` of the experiment is their queue). ``approve_ramp``, ``approve_promotion``: an approver is asked before each.
    """

    wanted_frauds: int | None = None
    wait_at_most: timedelta = timedelta(days=90)
    at_deadline: Literal["train", "give_up"] = "train"
    training: TrainingWindow | None = None
    error_rate: float = 0.05
    shadow_at_least: timedelta = timedelta(days=7)
    shadow_at_most: timedelta = timedelta(days=60)
    caps: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    minimum_share: float = 0.01
    epoch: timedelta = timedelta(days=1)
    epochs_per_step: int = 2
    ramp_at_least: int = 7
    ramp_at_most: timedelta = timedelta(days=90)
    non_inferiority_margin: float = 0.1
    bandit: BanditName = "thompson"
    discount_per_day: float = 0.9
    random_review_share: float = 0.005
    disagreement_review_share: float = 0.2
    approve_ramp: bool = False
    approve_promotion: bool = False
    guardrails: Guardrails = field(default_factory=Guardrails)


@dataclass(frozen=True)
class Owner:
    name: str
    email: str


@dataclass(frozen=True)
class Domain:
    """One fraud problem.

    ``event_table`` holds the events that are scored; ``event_id`` is its key column. ``features.sql`` turns the tables into one row per event
    with the columns ``event_id``, ``event_time``, ``entity_id`` (``entity`` as text: what a live assignment sticks to), ``group_id``
    (``leakage_group``: what must not be split between training and test), ``amount`` (money at stake), one text column ``facet_<name>``
    for each facet, and numeric features: every other column, in the order of the SQL.
    """

    name: str
    title: str
    description: str
    owner: Owner
    tables: tuple[Table, ...]
    event_table: str
    event_id: str
    entity: str
    leakage_group: str
    label: Label
    costs: Costs
    review: ReviewCapacity
    training: TrainingWindow
    feature_history: timedelta = timedelta(0)
    """How far before an event its features look back: what an incremental run has to read, and what a late row can change."""
    facets: tuple[Facet, ...] = ()
    schedules: Schedules = field(default_factory=Schedules)
    gate: Gate = field(default_factory=Gate)
    approval: Approval = field(default_factory=Approval)
    monitoring: Monitoring = field(default_factory=Monitoring)
    rollout: Rollout = field(default_factory=Rollout)

    def __post_init__(self) -> None:
        def refuse(where: str, what: str) -> None:
            raise DomainError(f"domain {self.name!r}, {where}: {what}")

        if not _IDENTIFIER.fullmatch(self.name) or len(self.name) > 24:
            refuse("name", "wants lower-case letters, digits and underscores, 24 at most: SageMaker names are made from it")
        if self.name.endswith("_history"):
            refuse(
                "name", f"must not end in '_history': the models of {self.name.removesuffix('_history')!r} from backfills are kept under it"
            )
        names = [table.name for table in self.tables]
        if len(set(names)) != len(names) or LABELS_TABLE in names:
            refuse("tables", f"names must differ from each other and from {LABELS_TABLE!r}, which every domain has")
        for table in self.tables:
            where = f"table {table.name!r}"
            columns = table.column_names
            if not _IDENTIFIER.fullmatch(table.name) or any(not _IDENTIFIER.fullmatch(column) for column in columns):
                refuse(where, "table and column names want lower-case letters, digits and underscores")
            if taken := RESERVED_COLUMNS.intersection(columns):
                refuse(where, f"ingestion adds a column {min(taken)!r} of its own: give yours another name")
            if len(set(columns)) != len(columns):
                refuse(where, "a column is declared twice")
            if not table.key or any(key not in columns or table.column(key).nullable for key in table.key):
                refuse(where, f"key {table.key} must name declared columns that are never null")
            if (table.kind == "event") != bool(table.event_time) or (table.kind == "event") != bool(table.available_at):
                refuse(where, "an event table has event_time and available_at expressions, a reference table has neither")
        if self.event_table not in names or self.table(self.event_table).kind != "event":
            refuse("event_table", f"{self.event_table!r} must be one of the event tables")
        events = self.table(self.event_table)
        if events.key != (self.event_id,):
            refuse("event_id", f"must be the one key column of {self.event_table!r}, whose key is {events.key}")
        if self.label.column not in events.column_names or not events.column(self.label.column).nullable:
            refuse("label", f"{self.label.column!r} must be a nullable column of {self.event_table!r}: a label is unknown at first")
        if (self.review.per_day is None) == (self.review.share is None):
            refuse("review", "set per_day or share, exactly one")
        if not self.approval.automatic and not self.approval.approvers:
            refuse("approval", "name at least one approver, or set automatic=True")
        self._check_training("training", self.training, refuse)
        self._check_monitoring(refuse)
        self._check_rollout(refuse)

    def _check_rollout(self, refuse: Callable[[str, str], None]) -> None:
        policy = self.rollout
        if policy.training is not None:
            self._check_training("rollout.training", policy.training, refuse)
        if not 0 < policy.error_rate < 0.5:
            refuse("rollout", "error_rate, the chance to promote a model that is not better, wants more than 0 and less than 0.5")
        if not policy.caps or list(policy.caps) != sorted(set(policy.caps)) or not 0 < policy.caps[0] <= policy.caps[-1] < 1:
            refuse("rollout", "caps want growing shares between 0 and 1: the whole traffic is the promotion's")
        if not 0 < policy.minimum_share <= policy.caps[0]:
            refuse("rollout", "minimum_share must be above 0, else nothing is learned of the challenger, and not above the first cap")
        if policy.epoch < timedelta(hours=1) or policy.epochs_per_step < 1 or policy.ramp_at_least < 1:
            refuse("rollout", "an epoch wants an hour at least, and a step and a ramp one epoch at least")
        if policy.shadow_at_most < policy.shadow_at_least or policy.ramp_at_most < policy.epoch:
            refuse("rollout", "shadow_at_most and ramp_at_most must leave time for shadow_at_least and an epoch")
        if not 0 < policy.discount_per_day <= 1:
            refuse("rollout", "discount_per_day wants more than 0 and at most 1")
        if not (0 <= policy.random_review_share < 1 and 0 <= policy.disagreement_review_share < 1):
            refuse("rollout", "random_review_share and disagreement_review_share want at least 0 and less than 1")
        if self.label.known_for == "reviewed_events" and policy.random_review_share == 0:
            refuse(
                "rollout",
                "random_review_share must be above 0 where only reviewed events get a label: nothing else tells what no model flags",
            )
        if (policy.approve_ramp or policy.approve_promotion) and not self.approval.approvers:
            refuse("rollout", "approve_ramp and approve_promotion want somebody to ask: approval.approvers names nobody")
        if policy.non_inferiority_margin <= 0:
            refuse("rollout", "non_inferiority_margin must be above 0: not worse at all can never be shown")

    def _check_monitoring(self, refuse: Callable[[str, str], None]) -> None:
        policy = self.monitoring
        if min(policy.window, policy.quality_window) < timedelta(days=1) or policy.windows_in_a_row < 1:
            refuse("monitoring", "windows want a day at least, and windows_in_a_row one")
        if policy.reporting_delay < timedelta(0):
            refuse("monitoring", "reporting_delay must not be negative: a window would end after its as-of")
        if not policy.false_alarms_per_year > 0:
            refuse("monitoring", "false_alarms_per_year must be above 0: no test finds anything without a chance to be wrong")
        if both := set(policy.alarm_on) & set(policy.warn_on):
            refuse("monitoring", f"{min(both)!r} is in alarm_on and in warn_on")
        if unknown := {*policy.alarm_on, *policy.warn_on} - set(FINDING_KINDS):
            refuse("monitoring", f"no finding is called {min(unknown)!r}; there are {', '.join(FINDING_KINDS)}")
        if not policy.alarm_on and not policy.warn_on:
            refuse("monitoring", "alarm_on and warn_on are both empty: then nothing is watched")
        if not 1 <= policy.capture_percentage <= 100:
            refuse("monitoring", "capture_percentage wants 1 to 100")

    def _check_training(self, where: str, training: TrainingWindow, refuse: Callable[[str, str], None]) -> None:
        validation, test = training.validation, training.test
        if isinstance(validation, timedelta) and isinstance(test, timedelta):
            if min(validation, test) <= timedelta(0) or validation + test + training.test_delay >= training.window:
                refuse(where, "validation + test_delay + test must be shorter than the window, and validation and test longer than nothing")
        elif isinstance(validation, timedelta) or isinstance(test, timedelta):
            refuse(where, "validation and test must both be shares or both be lengths of time")
        elif not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
            refuse(where, "validation and test, as shares, must lie between 0 and 1, and so must their sum")
        if training.test_delay < timedelta(0):
            refuse(where, "test_delay must not be negative")

    def table(self, name: str) -> Table:
        """The table of that name, the implicit ``labels`` table among them. KeyError if there is none."""
        if name == LABELS_TABLE:
            return self.labels_table
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(f"domain {self.name!r} has no table {name!r}; it has {', '.join(t.name for t in self.tables)}, {LABELS_TABLE}")

    @property
    def labels_table(self) -> Table:
        """Late labels as they land: the same three columns for every domain."""
        key = self.table(self.event_table).column(self.event_id)
        return Table(
            name=LABELS_TABLE,
            columns=(Column(self.event_id, key.type), Column("label", "integer"), Column("decided_at", "timestamp")),
            key=(self.event_id,),
            event_time="decided_at",
            available_at="decided_at",
            description="Decisions on events, as they become known.",
        )

    @property
    def landing_tables(self) -> tuple[Table, ...]:
        """Every table that files may land for, ``labels`` last."""
        return (*self.tables, self.labels_table)


LABELS_TABLE = "labels"
RESERVED_COLUMNS = frozenset({"event_time", "available_at", "delivered_at", "delivery_year", "source"})
EVENT_COLUMNS = ("event_id", "event_time", "entity_id", "group_id", "amount")
