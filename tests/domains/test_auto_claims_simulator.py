"""The simulated claims: what is promised about them, against the reference claims where that can be measured."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from bench.auto_claims import read_landed
from include.domains.auto_claims import fraud
from include.domains.auto_claims.domain import CLAIMS, CUSTOMERS, DOMAIN
from include.domains.auto_claims.simulator import CHANGES, Simulation, deliveries, simulate

FIRST_DAY = date(2026, 1, 1)
CHANGE_DAY = date(2026, 2, 15)


def changed(change: str) -> Simulation:
    return simulate(90, 20_000, FIRST_DAY, seed=5, change=change, change_day=CHANGE_DAY)


def after(simulation: Simulation) -> pd.Series:
    return simulation.event_times.dt.date >= CHANGE_DAY


def test_size_schema_and_order(simulation: Simulation) -> None:
    claims, customers, labels = simulation.claims, simulation.customers, simulation.labels
    assert len(claims) == len(customers) == len(labels) == 20_000
    assert tuple(claims.columns) == CLAIMS.column_names
    assert tuple(customers.columns) == CUSTOMERS.column_names
    assert (claims["policy_id"] == np.arange(1, 20_001)).all()
    assert claims["policy_id"].equals(customers["policy_id"])
    assert claims["policy_id"].equals(labels["policy_id"])
    assert simulation.event_times.is_monotonic_increasing
    assert not claims.isna().any().any()
    assert not customers.isna().any().any()


def test_incidents_are_where_their_columns_say(simulation: Simulation) -> None:
    claims, times = simulation.claims, simulation.event_times
    assert times.dt.date.min() == FIRST_DAY
    assert times.dt.date.max() == simulation.last_day == FIRST_DAY + timedelta(days=89)
    for column, part in (("incident_month", "month"), ("incident_day", "day"), ("incident_dow", "day_of_week"), ("incident_hour", "hour")):
        assert (claims[column] == getattr(times.dt, part)).all(), column


def test_amounts_add_up(simulation: Simulation) -> None:
    claims = simulation.claims
    assert np.abs(claims["total_claim_amount"] - claims["injury_claim"] - claims["vehicle_claim"]).max() < 0.005
    assert (claims[["injury_claim", "vehicle_claim"]] > 0).all().all()


def test_three_in_a_hundred_are_fraud(simulation: Simulation) -> None:
    assert 0.025 < simulation.claims["fraud"].mean() < 0.036


def test_days_and_weekdays_differ(simulation: Simulation) -> None:
    volumes = simulation.event_times.dt.date.value_counts()
    assert volumes.std() > 1.5 * np.sqrt(volumes.mean())  # more than chance alone (Poisson)
    weekend = simulation.claims["incident_dow"] >= 5
    assert 0.15 < weekend.mean() < 0.25  # 2/7 would be 0.29


def test_equal_seeds_are_equal_and_others_not() -> None:
    one, same, other = (simulate(20, 500, FIRST_DAY, seed=seed) for seed in (1, 1, 2))
    for frame in ("claims", "customers", "labels"):
        pd.testing.assert_frame_equal(getattr(one, frame), getattr(same, frame))
    assert not one.claims.equals(other.claims)
    for first, second in zip(deliveries(one), deliveries(same), strict=True):
        assert (first.table, first.day) == (second.table, second.day)
        pd.testing.assert_frame_equal(first.rows, second.rows)


def test_decisions_come_between_5_and_30_days_after_the_incident(simulation: Simulation) -> None:
    delay = simulation.labels["decided_at"] - simulation.event_times
    assert delay.min() >= timedelta(days=5)
    assert delay.max() <= DOMAIN.label.maturity
    assert timedelta(days=9) < delay.median() < timedelta(days=15)
    assert (simulation.labels["label"] == simulation.claims["fraud"]).all()


COMPARED = [column.name for column in (*CLAIMS.columns, *CUSTOMERS.columns) if column.name not in {"policy_id", "fraud", "customer_zip"}]


@pytest.mark.parametrize("column", COMPARED)
def test_a_year_looks_like_the_reference_claims(reference: Path, a_year: Simulation, column: str) -> None:
    table = "claims" if column in CLAIMS.column_names else "customers"
    real = read_landed(reference / f"{table}.csv")[column]
    ours = getattr(a_year, table)[column]
    if pd.api.types.is_numeric_dtype(real) and real.nunique() > 20:
        assert ks_2samp(real, ours).statistic < 0.06
    else:
        shares = pd.concat([real.value_counts(normalize=True), ours.value_counts(normalize=True)], axis=1).fillna(0)
        assert (shares.iloc[:, 0] - shares.iloc[:, 1]).abs().max() < 0.05


@pytest.fixture(scope="module")
def a_year() -> Simulation:
    return simulate(365, 20_000, date(2019, 1, 1), seed=9)


def test_joint_facts_of_the_reference_claims(a_year: Simulation) -> None:
    claims, customers = a_year.claims, a_year.customers
    assert ((claims["incident_type"] == "Collision") == (claims["collision_type"] != "N/A")).all()
    assert ((claims["driver_relationship"] == "N/A") == (claims["incident_type"] != "Collision")).all()
    assert (claims.loc[claims["authorities_contacted"] != "Police", "police_report_available"] == "No").all()
    assert (claims.loc[claims["incident_type"] == "Theft", "incident_severity"] == "Major").all()
    assert (customers.loc[customers["months_as_customer"] >= 60, "num_insurers_past_5_years"] == 1).all()
    assert (customers["months_as_customer"] <= 12 * (customers["customer_age"] - 15)).all()
    assert 0.62 < ((claims["num_injuries"] == 0) & (claims["injury_claim"] > 0)).mean() < 0.73
    ranks = customers[["customer_age", "months_as_customer"]].corr("spearman").iloc[0, 1]
    assert 0.5 < ranks < 0.7
    in_range = customers["customer_zip"].between(*customers.groupby("policy_state")["customer_zip"].agg(["min", "max"]).loc["CA"])
    assert (in_range == (customers["policy_state"] == "CA")).all()


def test_who_knows_the_mechanism_ranks_well_but_not_perfectly(simulation: Simulation) -> None:
    best = roc_auc_score(simulation.claims["fraud"], fraud.scores(simulation.claims, simulation.customers))
    assert 0.86 < best < 0.93


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_changes_before_its_day(simulation: Simulation, change: str) -> None:
    new = changed(change)
    before = ~after(simulation)
    count = int(before.sum())
    for frame in ("claims", "customers", "labels"):
        pd.testing.assert_frame_equal(getattr(new, frame).iloc[:count], getattr(simulation, frame).iloc[:count])
    assert not new.claims.iloc[count:].equals(simulation.claims.iloc[count:])


def test_staged_collisions(simulation: Simulation) -> None:
    new = changed("staged_collisions")
    claims, customers = new.claims[after(new)], new.customers[after(new)]
    staged = (
        (claims["collision_type"] == "Rear")
        & (claims["num_injuries"] == 2)
        & (claims["num_witnesses"] == 0)
        & (claims["incident_severity"] == "Minor")
        & (customers["months_as_customer"] < 12)
    )
    assert 0.05 < staged.mean() < 0.07
    assert claims.loc[staged, "fraud"].all()
    assert claims.loc[staged, "injury_claim"].median() > 40_000
    old = simulation.claims[after(simulation)]
    assert 0.048 < claims["fraud"].mean() - old["fraud"].mean() < 0.068


def test_moved_fraud_changes_who_and_nothing_else(simulation: Simulation) -> None:
    new = changed("moved_fraud")
    untouched = [name for name in CLAIMS.column_names if name != "fraud"]
    pd.testing.assert_frame_equal(new.claims[untouched], simulation.claims[untouched])
    pd.testing.assert_frame_equal(new.customers, simulation.customers)
    old, now = simulation.claims[after(simulation)], new.claims[after(new)]
    assert 0.8 < now["fraud"].mean() / old["fraud"].mean() < 1.25
    hurt = {name: frame.loc[frame["fraud"] == 1, "num_injuries"].gt(0).mean() for name, frame in (("old", old), ("now", now))}
    assert hurt["now"] > 2 * hurt["old"]
    knowledge = fraud.scores(simulation.claims, simulation.customers)[after(simulation)]
    assert roc_auc_score(now["fraud"], knowledge) < roc_auc_score(old["fraud"], knowledge) - 0.1


def test_more_fraud_is_twice_as_much(simulation: Simulation) -> None:
    new = changed("more_fraud")
    ratio = new.claims.loc[after(new), "fraud"].mean() / simulation.claims.loc[after(simulation), "fraud"].mean()
    assert 1.7 < ratio < 2.1
    assert (new.claims["fraud"] >= simulation.claims["fraud"]).all()


def test_storms_change_claims_and_not_the_mechanism(simulation: Simulation) -> None:
    new = changed("storm_season")
    night = new.claims["incident_hour"].isin([20, 21, 22, 23, 0, 1, 2, 3, 4, 5])
    assert night[after(new)].mean() > night[~after(new)].mean() + 0.15
    probability = 1 / (1 + np.exp(-fraud.scores(new.claims, new.customers)))[after(new)]
    observed = new.claims.loc[after(new), "fraud"]
    assert abs(observed.mean() - probability.mean()) < 4 * np.sqrt(probability.mean() / len(observed))


def test_cents_for_dollars(simulation: Simulation) -> None:
    new = changed("injury_claim_in_cents")
    late = after(new)
    assert (new.claims.loc[late, "injury_claim"] == 100 * simulation.claims.loc[late, "injury_claim"]).all()
    assert new.claims["fraud"].equals(simulation.claims["fraud"])
    total = new.claims["injury_claim"] + new.claims["vehicle_claim"]
    assert np.abs(new.claims["total_claim_amount"] - total).max() < 0.005


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"days": 0}, "at least 1"),
        ({"events": 0}, "at least 1"),
        ({"change": "aliens", "change_day": CHANGE_DAY}, "no change is named 'aliens'; there are: staged_collisions"),
        ({"change": "more_fraud"}, "give both or neither"),
        ({"change": "more_fraud", "change_day": date(2027, 1, 1)}, "outside of the simulated days"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(**{"days": 90, "events": 100, "first_day": FIRST_DAY, "seed": 1, **arguments})


def test_one_claim_is_enough() -> None:
    assert len(simulate(1, 1, FIRST_DAY, seed=1, first_event=77).claims) == 1
    assert simulate(1, 1, FIRST_DAY, seed=1, first_event=77).claims["policy_id"].tolist() == [77]


class TestDeliveries:
    def test_history_is_one_delivery_of_all_claims_and_the_labels_decided_by_then(self, simulation: Simulation) -> None:
        last = simulation.last_day
        files = {file.table: file for file in deliveries(simulation, history_until=last, until=last)}
        assert set(files) == {"claims", "customers", "labels"}
        assert {file.day for file in files.values()} == {last}
        assert len(files["claims"].rows) == len(files["customers"].rows) == 20_000
        decided = simulation.labels["decided_at"].dt.date <= last
        assert files["labels"].rows["policy_id"].tolist() == simulation.labels.loc[decided, "policy_id"].tolist()

    def test_landed_claims_do_not_tell_the_truth(self, simulation: Simulation) -> None:
        assert all((file.rows["fraud"] == "").all() for file in deliveries(simulation) if file.table == "claims")

    def test_day_by_day_everything_lands_once_and_in_time(self, simulation: Simulation) -> None:
        files = list(deliveries(simulation, damaged_share=0))
        assert [(file.day, file.table) for file in files] == sorted({(file.day, file.table) for file in files})
        for table in ("claims", "customers", "labels"):
            landed = (
                pd.concat([file.rows.assign(day=file.day) for file in files if file.table == table]).set_index("policy_id").sort_index()
            )
            assert len(landed) == landed.index.nunique() == 20_000
            ends = pd.to_datetime(landed["day"]).dt.tz_localize("UTC") + timedelta(days=1)
            if table == "labels":
                decided = pd.to_datetime(landed["decided_at"])
                assert (decided < ends).all()
                assert (decided >= ends - timedelta(days=1)).all()
            else:
                wait = ends.to_numpy() - simulation.event_times.to_numpy()
                assert wait.min() > np.timedelta64(0)
                assert wait.max() <= np.timedelta64(3, "D")  # the domain's reporting delay: available_at is never before the delivery

    def test_history_then_days(self, simulation: Simulation) -> None:
        until = FIRST_DAY + timedelta(days=59)
        files = list(deliveries(simulation, history_until=until))
        assert min(file.day for file in files) == until
        assert sum(len(file.rows) for file in files if file.table == "claims") == 20_000
        assert max(file.day for file in files) > simulation.last_day

    def test_damage_is_rare_known_and_leaves_the_truth_alone(self, simulation: Simulation) -> None:
        truth = simulation.claims.copy()
        last = simulation.last_day
        [landed] = [file.rows for file in deliveries(simulation, last, last, damaged_share=0.02) if file.table == "claims"]
        pd.testing.assert_frame_equal(simulation.claims, truth)
        different = (landed.astype(str) != truth.assign(fraud="").astype(str)).sum(axis=1)
        assert different.max() == 1
        assert 0.015 < (different == 1).mean() < 0.025
