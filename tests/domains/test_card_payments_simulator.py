"""The simulated payments: what is promised about them, against the published ones where that can be measured."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from bench import reference
from include.domains.card_payments import fraud, population
from include.domains.card_payments.domain import CUSTOMERS, DOMAIN, TERMINALS, TRANSACTIONS
from include.domains.card_payments.simulator import CHANGES, Simulation, deliveries, simulate, simulate_population

FIRST_DAY = date(2026, 1, 1)
DAYS = 60
CHANGE_DAY = date(2026, 1, 31)


def small(change: str | None = None, **arguments: object) -> Simulation:
    """1,000 customers and 2,000 terminals for 60 days: some 115,000 payments."""
    day = None if change is None else CHANGE_DAY
    return simulate_population(1_000, 2_000, DAYS, FIRST_DAY, seed=5, change=change, change_day=day, radius=10, **arguments)


@pytest.fixture(scope="module")
def payments() -> Simulation:
    return small()


@pytest.fixture(scope="module", params=list(CHANGES))
def changed(request: pytest.FixtureRequest) -> tuple[str, Simulation]:
    return request.param, small(request.param)


def days_of(simulation: Simulation) -> npt.NDArray[np.int64]:
    return ((simulation.transactions["tx_datetime"] - pd.Timestamp(simulation.first_day, tz="UTC")) // pd.Timedelta(days=1)).to_numpy()


def late(simulation: Simulation) -> npt.NDArray[np.bool_]:
    return (simulation.transactions["tx_datetime"] >= pd.Timestamp(CHANGE_DAY, tz="UTC")).to_numpy()


def distance(simulation: Simulation) -> npt.NDArray[np.float64]:
    """From the customer's home to the terminal, by payment."""
    home = simulation.customers.drop(columns="customer_id").to_numpy()[simulation.transactions["customer_id"]]
    place = simulation.terminals.drop(columns="terminal_id").to_numpy()[simulation.transactions["terminal_id"]]
    return np.hypot(*(home - place).T)


def test_tables_and_their_order(payments: Simulation) -> None:
    transactions = payments.transactions
    for frame, table in ((transactions, TRANSACTIONS), (payments.customers, CUSTOMERS), (payments.terminals, TERMINALS)):
        assert tuple(frame.columns) == table.column_names
        assert not frame.isna().any().any()
    assert (transactions["transaction_id"] == np.arange(1, len(transactions) + 1)).all()
    assert transactions["tx_datetime"].is_monotonic_increasing
    assert set(days_of(payments)) == set(range(DAYS))
    assert (len(payments.customers), len(payments.terminals)) == (1_000, 2_000)
    assert transactions["customer_id"].between(0, 999).all()
    assert (transactions["tx_amount"] * 100).round(6).mod(1).eq(0).all()


def test_customers_pay_within_their_reach_and_use_all_of_it(payments: Simulation) -> None:
    assert distance(payments).max() < 10
    chosen = payments.transactions.groupby("customer_id")["terminal_id"].nunique()
    assert chosen.max() > 50  # 63 terminals are within reach on average


def test_who_pays_more_often_has_less_time_between(payments: Simulation) -> None:
    """Payments a day are Poisson, with a customer's own mean between 0 and 4."""
    a_day = payments.transactions.groupby(["customer_id", days_of(payments)]).size().unstack(fill_value=0)
    mean, variance = a_day.mean(axis=1), a_day.var(axis=1)
    assert 3.4 < mean.max() < 4.5
    assert 0.95 < (variance / mean).mean() < 1.05


def test_frauds_are_exactly_those_of_the_scenarios(payments: Simulation) -> None:
    """The definitions once more, payment by payment, from who was compromised when."""
    transactions, day = payments.transactions.reset_index(), days_of(payments)
    moment = transactions["tx_datetime"].dt.tz_localize(None)
    touched = {}
    for key, periods in (("terminal_id", payments.compromised_terminals), ("customer_id", payments.compromised_customers)):
        pairs = transactions[["index", key]].assign(moment=moment).merge(periods, on=key)
        inside = (pairs["moment"] >= pairs["first_day"]) & (pairs["moment"] < pairs["last_day"] + pd.Timedelta(days=1))
        touched[key] = np.isin(transactions["index"], pairs.loc[inside, "index"])
    third = payments.scenario == fraud.COMPROMISED_CUSTOMER
    assert touched["customer_id"][third].all()
    assert (payments.scenario[touched["terminal_id"] & ~third] == fraud.COMPROMISED_TERMINAL).all()
    assert touched["terminal_id"][payments.scenario == fraud.COMPROMISED_TERMINAL].all()
    others = ~third & ~touched["terminal_id"]
    large = transactions["tx_amount"].to_numpy() > 220
    assert (payments.scenario[others] == np.where(large[others], fraud.LARGE_AMOUNT, 0)).all()
    assert (transactions["tx_fraud"] == (payments.scenario > 0)).all()
    assert {0, 1, 2, 3} == set(payments.scenario)

    periods = payments.compromised_customers
    for first, customers in periods.groupby("first_day")["customer_id"]:
        start = (first - pd.Timestamp(FIRST_DAY)).days
        window = (day >= start) & (day < start + 14) & transactions["customer_id"].isin(customers).to_numpy()
        assert (window & third).sum() >= window.sum() // 3
    assert (periods["last_day"] - periods["first_day"] == pd.Timedelta(days=13)).all()
    assert (payments.compromised_terminals["last_day"] - payments.compromised_terminals["first_day"] == pd.Timedelta(days=27)).all()


def test_amounts_of_compromised_customers_are_five_times_their_usual_ones(payments: Simulation) -> None:
    transactions, third = payments.transactions, payments.scenario == fraud.COMPROMISED_CUSTOMER
    usual = transactions[~third].groupby("customer_id")["tx_amount"].mean()
    factor = transactions.loc[third, "tx_amount"].sum() / usual[transactions.loc[third, "customer_id"]].sum()
    assert 4.4 < factor < 5.6
    assert (transactions.loc[third, "tx_amount"] * 20).round(6).mod(1).eq(0).all()  # five times whole cents


@pytest.mark.parametrize(("size", "a_day"), [(10_000, 2), (5_000, 1), (20_000, 4)])
def test_as_many_terminals_are_compromised_as_published(size: int, a_day: int) -> None:
    found = fraud.compromise(np.random.default_rng(1), size, fraud.TERMINAL_SHARE_A_DAY, 28, 0, 30)
    assert np.bincount(found.day).tolist() == [a_day] * 30
    assert len(set(found.who[:a_day])) == a_day
    assert found.who.max() < size


def test_small_populations_have_frauds_in_proportion() -> None:
    found = fraud.compromise(np.random.default_rng(1), 1_000, fraud.TERMINAL_SHARE_A_DAY, 28, 0, 40)
    assert found.day.tolist() == list(range(0, 40, 5))
    assert found.lasting_on(27).tolist() == found.who[:6].tolist()
    assert found.lasting_on(28).tolist() == found.who[1:6].tolist()
    for seed in range(5):
        assert simulate(40, 600, FIRST_DAY, seed).transactions["tx_fraud"].sum() > 0


# ------------------------------------------------------------------------------------------------- against the published payments


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    file = reference.payments()
    if file is None:
        pytest.skip("no published payments: set FRAUD_REFERENCE_DATA or put shared/data beside the repository")
    return pd.read_parquet(file).rename(columns=str.lower)


@pytest.fixture(scope="module")
def as_published() -> Simulation:
    """The published size, for as many days as the file has."""
    return simulate_population(5_000, 10_000, 157, date(2018, 4, 1), seed=2, first_event=0)


def test_as_many_payments_and_frauds_as_published(published: pd.DataFrame, as_published: Simulation) -> None:
    ours = as_published.transactions
    # the customers' own means differ with the seed: a standard deviation of 0.8 % of the payments
    assert abs(len(ours) / len(published) - 1) < 0.03
    assert abs(ours["tx_fraud"].mean() / published["tx_fraud"].mean() - 1) < 0.08
    for scenario, tolerance in ((1, 0.25), (2, 0.08), (3, 0.08)):
        share = (published["tx_fraud_scenario"] == scenario).mean()
        assert abs((as_published.scenario == scenario).mean() / share - 1) < tolerance, scenario
    assert abs((ours["tx_amount"] > 220).mean() / (published["tx_amount"] > 220).mean() - 1) < 0.15


def test_payments_are_distributed_as_the_published_ones(published: pd.DataFrame, as_published: Simulation) -> None:
    ours = as_published.transactions
    theirs = published.assign(tx_datetime=published["tx_datetime"].dt.tz_localize("UTC"))
    both = [frame.assign(day=frame["tx_datetime"].dt.normalize()) for frame in (ours, theirs)]
    some = [frame.iloc[::5] for frame in both]
    assert ks_2samp(*((frame["tx_datetime"] - frame["day"]).dt.total_seconds() for frame in some)).statistic < 0.004
    assert ks_2samp(*(frame["tx_amount"] for frame in some)).statistic < 0.02
    for key in ("customer_id", "terminal_id"):
        grouped = [frame.groupby(key)["tx_amount"] for frame in both]
        assert ks_2samp(*(group.size() for group in grouped)).statistic < 0.06, key
        # customers are drawn once, so populations differ: ours, of different seeds, by .05 to .13 from each other
        assert ks_2samp(*(group.mean() for group in grouped)).statistic < 0.1, key
        assert abs(grouped[0].ngroups - grouped[1].ngroups) < 15
    a_day = [frame.groupby("day").size() for frame in both]
    assert 0.75 < a_day[0].std() / a_day[1].std() < 1.33
    frauds = [frame[(frame["tx_fraud"] == 1) & (frame["day"] >= "2018-04-29")].groupby("day") for frame in both]
    frauds_a_day, cards_a_day = (
        [of(group).mean() for group in frauds] for of in (lambda g: g.size(), lambda g: g["customer_id"].nunique())
    )
    assert abs(frauds_a_day[0] - frauds_a_day[1]) < 6
    assert abs(cards_a_day[0] - cards_a_day[1]) < 6


# ------------------------------------------------------------------------------------------------------------------------- changes


def test_nothing_changes_before_its_day(payments: Simulation, changed: tuple[str, Simulation]) -> None:
    _, new = changed
    count = int((~late(payments)).sum())
    assert count == (~late(new)).sum()
    pd.testing.assert_frame_equal(new.transactions.iloc[:count], payments.transactions.iloc[:count])
    assert (new.scenario[:count] == payments.scenario[:count]).all()
    assert not new.transactions.iloc[count:].reset_index(drop=True).equals(payments.transactions.iloc[count:].reset_index(drop=True))
    for frame in ("customers", "terminals"):
        pd.testing.assert_frame_equal(getattr(new, frame), getattr(payments, frame))


def test_whatever_changes_the_tables_stay_whole(changed: tuple[str, Simulation]) -> None:
    _, new = changed
    assert new.transactions["tx_datetime"].is_monotonic_increasing
    assert new.transactions["tx_datetime"].max() < pd.Timestamp(new.last_day + timedelta(days=1), tz="UTC")
    assert (new.transactions["transaction_id"] == np.arange(1, len(new.transactions) + 1)).all()
    assert (new.transactions["tx_fraud"] == (new.scenario > 0)).all()
    assert (new.transactions["tx_amount"] >= 0).all()
    assert len(new.labels) == new.transactions["tx_fraud"].sum()


def test_distant_terminals_are_used_with_stolen_card_data(payments: Simulation) -> None:
    new = small("distant_terminals")
    distant = new.scenario == fraud.DISTANT_TERMINAL
    assert 0.5 < distant[late(new)].sum() / payments.scenario[late(payments)].astype(bool).sum() < 1.0
    assert (distance(new)[distant] > 10).mean() > 0.99
    assert np.median(distance(new)[distant]) > 50
    rest = new.transactions[~distant].drop(columns="transaction_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, payments.transactions.drop(columns="transaction_id"))
    amounts = new.transactions.loc[distant, "tx_amount"]
    assert ks_2samp(amounts, payments.transactions["tx_amount"]).statistic < 0.15  # not told by their amounts
    stolen = new.transactions[distant].groupby("customer_id")["tx_datetime"]
    assert (stolen.max() - stolen.min()).median() < pd.Timedelta(days=7)
    assert 12 < stolen.size().mean() < 24


def test_moved_fraud_changes_which_payments_are_fraud_and_nothing_else(payments: Simulation) -> None:
    new = small("moved_fraud")
    pd.testing.assert_frame_equal(new.transactions.drop(columns="tx_fraud"), payments.transactions.drop(columns="tx_fraud"))
    after = late(new)
    old, now = payments.scenario[after], new.scenario[after]
    assert not (now == fraud.COMPROMISED_TERMINAL).any()
    assert 0.7 < (now == fraud.CARD_TESTING).sum() / (old == fraud.COMPROMISED_TERMINAL).sum() < 1.4
    tested = new.transactions[new.scenario == fraud.CARD_TESTING]
    assert (tested["tx_amount"] < 10).all()
    assert (tested["tx_datetime"].dt.hour < 5).all()
    assert (now == fraud.COMPROMISED_CUSTOMER)[old == fraud.COMPROMISED_CUSTOMER].all()


def test_more_fraud_is_twice_as_much_at_once(payments: Simulation) -> None:
    new = small("more_fraud")
    day = days_of(new)
    for scenario in (fraud.COMPROMISED_TERMINAL, fraud.COMPROMISED_CUSTOMER):
        ratio = (new.scenario[late(new)] == scenario).sum() / (payments.scenario[late(new)] == scenario).sum()
        assert 1.6 < ratio < 2.4
    first_week = (day >= 30) & (day < 37)
    assert 1.4 < (new.scenario[first_week] > 0).sum() / (payments.scenario[first_week] > 0).sum() < 2.8
    assert (new.scenario >= 1)[payments.scenario >= 1].all()


def test_the_busy_season_changes_payments_and_not_the_share_of_fraud(payments: Simulation) -> None:
    new = small("busy_season")
    after = late(new)
    old, now = payments.transactions[late(payments)], new.transactions[after]
    assert 1.36 < len(now) / len(old) < 1.44
    assert now["tx_datetime"].dt.hour.mean() > old["tx_datetime"].dt.hour.mean() + 2
    genuine = [frame.loc[frame["tx_fraud"] == 0, "tx_amount"] for frame in (old, now)]
    assert 1.2 < genuine[1].mean() / genuine[0].mean() < 1.26
    assert genuine[1].max() <= 220
    for scenario, tolerance in ((fraud.LARGE_AMOUNT, 0.35), (fraud.COMPROMISED_TERMINAL, 0.12), (fraud.COMPROMISED_CUSTOMER, 0.15)):
        shares = [(simulation.scenario[late(simulation)] == scenario).mean() for simulation in (payments, new)]
        assert abs(shares[1] / shares[0] - 1) < tolerance, scenario


def test_cents_for_euros(payments: Simulation) -> None:
    new = small("amount_in_cents")
    after = late(new)
    assert (new.transactions.loc[after, "tx_amount"] == (100 * payments.transactions.loc[after, "tx_amount"]).round()).all()
    assert (new.scenario == payments.scenario).all()


# --------------------------------------------------------------------------------------------------------- arguments and repetition


def test_equal_seeds_are_equal_and_others_not() -> None:
    one, same, other = (simulate(20, 5_000, FIRST_DAY, seed=seed) for seed in (1, 1, 2))
    for frame in ("transactions", "customers", "terminals", "labels"):
        pd.testing.assert_frame_equal(getattr(one, frame), getattr(same, frame))
    assert not one.transactions.equals(other.transactions)
    for first, second in zip(deliveries(one), deliveries(same), strict=True):
        assert (first.table, first.day) == (second.table, second.day)
        pd.testing.assert_frame_equal(first.rows, second.rows)


def test_simulations_can_follow_each_other() -> None:
    """The same people, the days' own random numbers, and numbers that go on."""
    whole = simulate_population(100, 200, 20, FIRST_DAY, seed=3, radius=20)
    first = simulate_population(100, 200, 10, FIRST_DAY, seed=3, radius=20)
    then = simulate_population(100, 200, 10, FIRST_DAY + timedelta(days=10), seed=3, radius=20, first_event=len(first.transactions) + 1)
    both = pd.concat([first.transactions, then.transactions], ignore_index=True)
    untouched = ["transaction_id", "tx_datetime", "customer_id", "terminal_id"]
    pd.testing.assert_frame_equal(both[untouched], whole.transactions[untouched])
    pd.testing.assert_frame_equal(first.customers, then.customers)


@pytest.mark.parametrize(("days", "events"), [(90, 170_000), (30, 30_000), (40, 3_000)])
def test_there_are_about_as_many_events_as_asked_for(days: int, events: int) -> None:
    found = simulate(days, events, FIRST_DAY, seed=4)
    customers = events / days / population.PAYMENTS_PER_CUSTOMER_AND_DAY
    assert abs(len(found.transactions) / events - 1) < 4 / math.sqrt(3 * customers)  # four standard deviations of a mean of U(0, 4)
    assert abs(len(found.customers) - customers) <= 0.5
    assert len(found.terminals) == 2 * len(found.customers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"days": 0}, "at least 1"),
        ({"events": 0}, "at least 1"),
        ({"change": "aliens", "change_day": CHANGE_DAY}, "no change is named 'aliens'; there are: distant_terminals"),
        ({"change": "more_fraud"}, "give both or neither"),
        ({"change_day": CHANGE_DAY}, "give both or neither"),
        ({"change": "more_fraud", "change_day": date(2027, 1, 1)}, "outside of the simulated days"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(**{"days": 90, "events": 1_000, "first_day": FIRST_DAY, "seed": 1, **arguments})


def test_nobody_within_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no customer has a terminal within 0\.001"):
        simulate_population(5, 5, 3, FIRST_DAY, seed=1, radius=0.001)


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_one_event_is_enough(change: str | None) -> None:
    found = simulate(1, 1, FIRST_DAY, seed=1, first_event=77, change=change, change_day=change and FIRST_DAY)
    assert found.transactions["transaction_id"].tolist() == list(range(77, 77 + len(found.transactions)))


# ----------------------------------------------------------------------------------------------------------------------- deliveries


class TestDeliveries:
    def test_only_frauds_are_reported_a_week_after_the_payment(self, payments: Simulation) -> None:
        frauds = payments.transactions[payments.transactions["tx_fraud"] == 1]
        assert payments.labels["transaction_id"].tolist() == frauds["transaction_id"].tolist()
        assert (payments.labels["label"] == 1).all()
        assert set(payments.labels["decided_at"].to_numpy() - frauds["tx_datetime"].to_numpy()) == {np.timedelta64(7, "D")}
        assert DOMAIN.label.maturity == timedelta(days=7)
        assert DOMAIN.label.unreported_is_genuine

    def test_history_is_one_delivery_and_the_labels_decided_by_then(self, payments: Simulation) -> None:
        last = payments.last_day
        files = {file.table: file for file in deliveries(payments, history_until=last, until=last)}
        assert set(files) == {"transactions", "customers", "terminals", "labels"}
        assert {file.day for file in files.values()} == {last}
        assert len(files["transactions"].rows) == len(payments.transactions)
        decided = payments.labels["decided_at"].dt.date <= last
        assert files["labels"].rows["transaction_id"].tolist() == payments.labels.loc[decided, "transaction_id"].tolist()
        assert not decided.all()

    def test_landed_transactions_do_not_tell_the_truth(self, payments: Simulation) -> None:
        landed = [file.rows for file in deliveries(payments) if file.table == "transactions"]
        assert all(rows["tx_fraud"].isna().all() for rows in landed)
        assert all(tuple(rows.columns) == TRANSACTIONS.column_names for rows in landed)

    def test_day_by_day_everything_lands_once_on_its_day(self, payments: Simulation) -> None:
        files = list(deliveries(payments, damaged_share=0))
        assert [(file.day, file.table) for file in files] == sorted({(file.day, file.table) for file in files})
        for table, moment in (("transactions", "tx_datetime"), ("labels", "decided_at")):
            landed = pd.concat([file.rows.assign(day=file.day) for file in files if file.table == table])
            truth = getattr(payments, table)
            assert landed["transaction_id"].tolist() == truth["transaction_id"].tolist()
            assert (landed[moment].dt.tz_localize(None).dt.normalize() == pd.to_datetime(landed["day"])).all()
            assert (landed[moment].to_numpy() == truth[moment].to_numpy()).all()
        for table in ("customers", "terminals"):
            [only] = [file for file in files if file.table == table]
            assert only.day == FIRST_DAY
            pd.testing.assert_frame_equal(only.rows, getattr(payments, table))

    def test_history_then_days(self, payments: Simulation) -> None:
        until = FIRST_DAY + timedelta(days=39)
        files = list(deliveries(payments, history_until=until))
        assert min(file.day for file in files) == until
        assert sum(len(file.rows) for file in files if file.table == "transactions") == len(payments.transactions)
        assert max(file.day for file in files) > payments.last_day

    def test_damage_is_rare_and_leaves_the_truth_alone(self, payments: Simulation) -> None:
        truth = payments.transactions.copy()
        last = payments.last_day
        landed, clean = (
            next(file.rows for file in deliveries(payments, last, last, damaged_share=share) if file.table == "transactions")
            for share in (0.02, 0.0)
        )
        pd.testing.assert_frame_equal(payments.transactions, truth)
        columns = ["transaction_id", "tx_datetime", "customer_id", "terminal_id", "tx_amount"]
        pd.testing.assert_frame_equal(clean[columns], truth[columns], check_dtype=False)
        different = (landed[columns] != clean[columns]).fillna(True).sum(axis=1)
        assert different.max() == 1
        assert 0.015 < (different == 1).mean() < 0.025
        usual = next(file.rows for file in deliveries(payments, last, last) if file.table == "transactions")
        assert 20 < (usual[columns] != clean[columns]).fillna(True).any(axis=1).sum() < 120
