-- One row per payment, as of the payment: the fifteen inputs of the Fraud Detection Handbook (Le Borgne et al. 2022, chapter 3), then what
-- they leave out: the amount against the customer's own history, and the terminal's last payments whose truth is known.
--
-- Nothing looks back further than 37 days, or at a payment that comes later; of payments at the same instant, the one with the smaller
-- transaction_id comes first. Sums over a window are differences of running sums: of whole numbers, so that they are exact and the same
-- whatever was summed before; to look one up is faster than to sum again. The windows of w days are open on the left: (now - w, now].
-- An instant is in microseconds since 1970, of which a day has 86400000000: engines order and compare integers fastest.
WITH
-- From when until when a payment was known to be fraud. A report that confirms one still standing changes nothing.
fraud_labels AS (
    SELECT
        event_id,
        available_at,
        superseded_at,
        LAG(superseded_at) OVER (PARTITION BY event_id ORDER BY available_at) AS previous_until
    FROM labels
    WHERE label = 1
),
fraud_spells AS (
    SELECT
        event_id,
        superseded_at,
        MAX(CASE WHEN previous_until = available_at THEN NULL ELSE available_at END)
            OVER (PARTITION BY event_id ORDER BY available_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS known_from
    FROM fraud_labels
),
known_frauds AS (
    SELECT
        t.transaction_id,
        t.event_time,
        t.terminal_id,
        t.tx_amount,
        GREATEST(s.known_from, t.event_time + INTERVAL 1 SECOND) AS known_from, -- never in time for the payment itself
        LEAST(MAX(s.superseded_at), t.event_time + INTERVAL 37 DAY) AS known_until
    FROM fraud_spells AS s
    JOIN transactions AS t ON CAST(t.transaction_id AS VARCHAR) = s.event_id
    GROUP BY t.transaction_id, t.event_time, t.terminal_id, t.tx_amount, s.known_from
),
-- A payment matures after seven days: it then counts as fraud or as genuine, as was known at that instant.
matured_frauds AS (
    SELECT transaction_id
    FROM known_frauds
    WHERE known_from <= event_time + INTERVAL 7 DAY AND event_time + INTERVAL 7 DAY < known_until
),
payments AS (
    SELECT
        t.transaction_id,
        t.event_time,
        t.customer_id,
        t.terminal_id,
        t.tx_amount,
        EPOCH(t.event_time) / 86400 AS day_number,
        CAST(FLOOR(EPOCH(t.event_time) * 1000000 + 0.5) AS BIGINT) AS instant,
        CAST(FLOOR(t.tx_amount * 100 + 0.5) AS DOUBLE) AS cents,
        CASE WHEN f.transaction_id IS NULL THEN 0 ELSE 1 END AS matures_as_fraud
    FROM transactions AS t
    LEFT JOIN matured_frauds AS f ON f.transaction_id = t.transaction_id
),
paid_so_far AS (
    SELECT
        *,
        ROW_NUMBER() OVER in_order AS nb,
        SUM(cents) OVER in_order AS total,
        SUM(cents * cents) OVER in_order AS squares
    FROM payments
    WINDOW in_order AS (PARTITION BY customer_id ORDER BY instant, transaction_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
),
of_customer AS (
    -- Running counts and sums only grow, so the largest is the last, whichever of two payments of one instant comes first.
    SELECT
        *,
        MAX(nb) OVER before_1day AS nb_before_1day,
        MAX(total) OVER before_1day AS total_before_1day,
        MAX(nb) OVER before_7day AS nb_before_7day,
        MAX(total) OVER before_7day AS total_before_7day,
        MAX(nb) OVER before_30day AS nb_before_30day,
        MAX(total) OVER before_30day AS total_before_30day,
        MAX(squares) OVER before_7day AS squares_before_7day,
        MAX(squares) OVER before_30day AS squares_before_30day,
        MAX(tx_amount) OVER earlier_7day AS largest_7day,
        MAX(tx_amount) OVER earlier_30day AS largest_30day
    FROM paid_so_far
    WINDOW
        before_1day AS (PARTITION BY customer_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 1 * 86400000000 PRECEDING),
        before_7day AS (PARTITION BY customer_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 7 * 86400000000 PRECEDING),
        before_30day AS (PARTITION BY customer_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 30 * 86400000000 PRECEDING),
        earlier_7day AS (PARTITION BY customer_id ORDER BY instant RANGE BETWEEN 7 * 86400000000 PRECEDING AND 1000000 PRECEDING),
        earlier_30day AS (PARTITION BY customer_id ORDER BY instant RANGE BETWEEN 30 * 86400000000 PRECEDING AND 1000000 PRECEDING)
),
-- A run: frauds of a terminal one after another, without a genuine payment or a week of silence between them.
in_runs AS (
    SELECT
        transaction_id,
        instant,
        terminal_id,
        day_number,
        matures_as_fraud,
        CASE
            WHEN matures_as_fraud = 1
                AND (COALESCE(LAG(matures_as_fraud) OVER in_order, 0) = 0 OR day_number - LAG(day_number) OVER in_order > 7)
            THEN day_number
        END AS run_began
    FROM payments
    WINDOW in_order AS (PARTITION BY terminal_id ORDER BY instant, transaction_id)
),
standing_frauds AS (
    -- The last and the smallest fraud are of those that were ever reported: one that was withdrawn since counts until it is too old. One that
    -- was reported after more than 16 days is left out of the smallest: 21 days after its report, it would be older than 37.
    SELECT
        terminal_id,
        CASE WHEN known_from <= event_time + INTERVAL 16 DAY THEN tx_amount END AS tx_amount,
        EPOCH(event_time) / 86400 AS day_number,
        CAST(FLOOR(EPOCH(known_from) * 1000000 + 0.5) AS BIGINT) AS known_from,
        CAST(FLOOR(EPOCH(known_until) * 1000000 + 0.5) AS BIGINT) AS known_until
    FROM known_frauds
    WHERE known_from < known_until
),
-- A terminal's payments, the frauds that become known, and those that leave a window again, each at its instant.
at_terminal AS (
    SELECT
        terminal_id, instant, transaction_id, day_number, matures_as_fraud, run_began,
        0 AS frauds_1day, 0 AS frauds_7day, 0 AS frauds_30day, NULL AS fraud_day_number, NULL AS fraud_amount
    FROM in_runs
    UNION ALL
    SELECT terminal_id, known_from, NULL, NULL, NULL, NULL, 1, 1, 1, day_number, tx_amount FROM standing_frauds
    UNION ALL
    SELECT terminal_id, LEAST(known_until, known_from + 1 * 86400000000), NULL, NULL, NULL, NULL, -1, 0, 0, NULL, NULL FROM standing_frauds
    UNION ALL
    SELECT terminal_id, LEAST(known_until, known_from + 7 * 86400000000), NULL, NULL, NULL, NULL, 0, -1, 0, NULL, NULL FROM standing_frauds
    UNION ALL
    SELECT terminal_id, LEAST(known_until, known_from + 30 * 86400000000), NULL, NULL, NULL, NULL, 0, 0, -1, NULL, NULL FROM standing_frauds
),
known_at_terminal AS (
    SELECT
        terminal_id,
        instant,
        transaction_id,
        day_number,
        matures_as_fraud,
        run_began,
        SUM(matures_as_fraud) OVER so_far AS frauds,
        SUM(frauds_1day) OVER so_far AS frauds_1day,
        SUM(frauds_7day) OVER so_far AS frauds_7day,
        SUM(frauds_30day) OVER so_far AS frauds_30day,
        MAX(fraud_day_number) OVER last_30day AS last_fraud,
        MIN(fraud_amount) OVER last_21day AS smallest_fraud
    FROM at_terminal
    WINDOW
        so_far AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
        last_21day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN 21 * 86400000000 PRECEDING AND CURRENT ROW),
        last_30day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN 30 * 86400000000 PRECEDING AND CURRENT ROW)
),
of_terminal AS (
    SELECT
        transaction_id,
        day_number,
        frauds_1day,
        frauds_7day,
        frauds_30day,
        last_fraud,
        smallest_fraud,
        COUNT(*) OVER before_7day AS nb_before_7day,
        COUNT(*) OVER before_8day AS nb_before_8day,
        COUNT(*) OVER before_14day AS nb_before_14day,
        COUNT(*) OVER before_37day AS nb_before_37day,
        LAST_VALUE(frauds) OVER before_7day AS frauds_before_7day,
        LAST_VALUE(frauds) OVER before_37day AS frauds_before_37day,
        MAX(CASE WHEN matures_as_fraud = 0 THEN day_number END) OVER matured AS last_genuine,
        MAX(CASE WHEN matures_as_fraud = 0 THEN frauds END) OVER matured AS frauds_before_last_genuine,
        MAX(run_began) OVER matured_30day AS run_began
    FROM known_at_terminal
    WHERE transaction_id IS NOT NULL
    WINDOW
        before_7day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 7 * 86400000000 PRECEDING),
        before_8day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 8 * 86400000000 PRECEDING),
        before_14day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 14 * 86400000000 PRECEDING),
        before_37day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN UNBOUNDED PRECEDING AND 37 * 86400000000 PRECEDING),
        matured AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN 37 * 86400000000 PRECEDING AND 7 * 86400000000 PRECEDING),
        matured_30day AS (PARTITION BY terminal_id ORDER BY instant RANGE BETWEEN 30 * 86400000000 PRECEDING AND 7 * 86400000000 PRECEDING)
),
customer_windows AS (
    SELECT
        *,
        nb - COALESCE(nb_before_1day, 0) AS nb_1day,
        total - COALESCE(total_before_1day, 0) AS total_1day,
        nb - COALESCE(nb_before_7day, 0) AS nb_7day,
        total - COALESCE(total_before_7day, 0) AS total_7day,
        nb - COALESCE(nb_before_30day, 0) AS nb_30day,
        total - COALESCE(total_before_30day, 0) AS total_30day,
        squares - COALESCE(squares_before_30day, 0) AS squares_30day,
        COALESCE(nb_before_7day, 0) - COALESCE(nb_before_30day, 0) AS nb_matured,
        total_before_7day - COALESCE(total_before_30day, 0) AS total_matured,
        squares_before_7day - COALESCE(squares_before_30day, 0) AS squares_matured
    FROM of_customer
),
named AS (
    SELECT
        c.transaction_id,
        c.event_time,
        c.customer_id,
        c.terminal_id,
        c.tx_amount,
        c.nb_1day AS customer_nb_1day,
        c.total_1day / 100 / c.nb_1day AS customer_avg_1day,
        c.nb_7day AS customer_nb_7day,
        c.total_7day / 100 / c.nb_7day AS customer_avg_7day,
        c.nb_30day AS customer_nb_30day,
        c.total_30day / 100 / c.nb_30day AS customer_avg_30day,
        SQRT(GREATEST(c.nb_30day * c.squares_30day - c.total_30day * c.total_30day, 0)) / 100 / c.nb_30day AS customer_deviation_30day,
        (c.total_30day - c.cents) / 100 / NULLIF(c.nb_30day - 1, 0) AS customer_avg_earlier,
        c.nb_matured AS customer_nb_matured,
        c.total_matured / 100 / NULLIF(c.nb_matured, 0) AS customer_avg_matured,
        SQRT(GREATEST(c.nb_matured * c.squares_matured - c.total_matured * c.total_matured, 0)) / 100 / NULLIF(c.nb_matured, 0)
            AS customer_deviation_matured,
        c.largest_7day,
        c.largest_30day,
        t.nb_before_7day - t.nb_before_8day AS terminal_nb_1day,
        t.nb_before_7day - t.nb_before_14day AS terminal_nb_7day,
        t.nb_before_7day - t.nb_before_37day AS terminal_nb_30day,
        t.frauds_1day,
        t.frauds_7day,
        t.frauds_30day,
        t.day_number - t.last_genuine AS days_since_genuine,
        COALESCE(t.frauds_before_7day - COALESCE(t.frauds_before_last_genuine, t.frauds_before_37day, 0), 0) AS frauds_since_genuine,
        t.day_number - t.run_began AS days_since_run_began,
        t.day_number - t.last_fraud AS days_since_fraud,
        t.smallest_fraud
    FROM customer_windows AS c
    JOIN of_terminal AS t ON t.transaction_id = c.transaction_id
)
SELECT
    CAST(p.transaction_id AS VARCHAR) AS event_id,
    p.event_time AS event_time,
    CAST(p.customer_id AS VARCHAR) AS entity_id,
    CAST(p.customer_id AS VARCHAR) AS group_id,
    p.tx_amount AS amount,

    -- The published inputs. A terminal's frauds count from the report on, its payments from seven days on.
    p.tx_amount AS tx_amount,
    -- 1900-01-01 was a Monday
    CASE WHEN DATE_DIFF('day', DATE '1900-01-01', CAST(p.event_time AS DATE)) % 7 >= 5 THEN 1 ELSE 0 END AS tx_during_weekend,
    CASE WHEN EXTRACT(HOUR FROM p.event_time) <= 6 THEN 1 ELSE 0 END AS tx_during_night,
    p.customer_nb_1day AS customer_id_nb_tx_1day_window,
    p.customer_avg_1day AS customer_id_avg_amount_1day_window,
    p.customer_nb_7day AS customer_id_nb_tx_7day_window,
    p.customer_avg_7day AS customer_id_avg_amount_7day_window,
    p.customer_nb_30day AS customer_id_nb_tx_30day_window,
    p.customer_avg_30day AS customer_id_avg_amount_30day_window,
    p.terminal_nb_1day AS terminal_id_nb_tx_1day_window,
    COALESCE(p.frauds_1day / NULLIF(GREATEST(p.terminal_nb_1day, p.frauds_1day), 0), 0) AS terminal_id_risk_1day_window,
    p.terminal_nb_7day AS terminal_id_nb_tx_7day_window,
    COALESCE(p.frauds_7day / NULLIF(GREATEST(p.terminal_nb_7day, p.frauds_7day), 0), 0) AS terminal_id_risk_7day_window,
    p.terminal_nb_30day AS terminal_id_nb_tx_30day_window,
    COALESCE(p.frauds_30day / NULLIF(GREATEST(p.terminal_nb_30day, p.frauds_30day), 0), 0) AS terminal_id_risk_30day_window,

    -- The amount against the customer's own. Matured: 7 to 30 days ago, before any fraud that is not yet known could have begun.
    p.customer_avg_matured AS customer_id_avg_amount_matured,
    p.tx_amount / NULLIF(p.customer_avg_matured, 0) AS amount_to_avg_matured,
    (p.tx_amount - p.customer_avg_matured) / NULLIF(p.customer_deviation_matured, 0) AS amount_zscore_matured,
    p.tx_amount / NULLIF(p.customer_avg_earlier, 0) AS amount_to_avg_earlier_30day,
    p.tx_amount / NULLIF(p.customer_avg_7day, 0) AS amount_to_avg_7day,
    (p.tx_amount - p.customer_avg_30day) / NULLIF(p.customer_deviation_30day, 0) AS amount_zscore_30day,
    p.tx_amount / NULLIF(p.largest_30day, 0) AS amount_to_largest_earlier_30day,
    p.largest_7day / NULLIF(p.customer_avg_matured, 0) AS largest_earlier_7day_to_avg_matured,
    p.customer_nb_matured AS customer_id_nb_tx_matured,

    -- The terminal's last payments whose truth is known
    p.days_since_genuine AS terminal_id_days_since_last_matured_genuine,
    p.frauds_since_genuine AS terminal_id_matured_frauds_since_genuine,
    p.days_since_run_began AS terminal_id_days_since_fraud_run_began,
    CASE WHEN p.frauds_30day > 0 THEN p.days_since_fraud END AS terminal_id_days_since_last_known_fraud,
    CASE WHEN p.frauds_30day > 0 THEN p.smallest_fraud END AS terminal_id_smallest_fraud_known_21day,

    SQRT(
        (h.x_customer_id - s.x_terminal_id) * (h.x_customer_id - s.x_terminal_id)
        + (h.y_customer_id - s.y_terminal_id) * (h.y_customer_id - s.y_terminal_id)
    ) AS distance_from_home
FROM named AS p
LEFT JOIN customers AS h ON h.customer_id = p.customer_id AND h.available_at <= p.event_time AND p.event_time < h.superseded_at
LEFT JOIN terminals AS s ON s.terminal_id = p.terminal_id AND s.available_at <= p.event_time AND p.event_time < s.superseded_at
