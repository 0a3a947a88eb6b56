-- One row per claim, as of its incident: what was claimed, and the policy as it was known then.
SELECT
    CAST(c.policy_id AS VARCHAR) AS event_id,
    c.event_time AS event_time,
    CAST(c.policy_id AS VARCHAR) AS entity_id,
    CAST(c.policy_id AS VARCHAR) AS group_id,
    CAST(c.total_claim_amount AS DOUBLE) AS amount,
    COALESCE(p.customer_gender, 'Unkown') AS facet_gender,
    CASE
        WHEN p.customer_age IS NULL THEN 'unknown'
        WHEN p.customer_age < 30 THEN '18-29'
        WHEN p.customer_age < 45 THEN '30-44'
        WHEN p.customer_age < 60 THEN '45-59'
        ELSE '60+'
    END AS facet_age_band,

    -- The incident
    CASE c.incident_severity WHEN 'Minor' THEN 0 WHEN 'Major' THEN 1 WHEN 'Totaled' THEN 2 END AS severity,
    CASE WHEN c.incident_type = 'Break-in' THEN 1 ELSE 0 END AS is_break_in,
    CASE WHEN c.incident_type = 'Theft' THEN 1 ELSE 0 END AS is_theft,
    CASE WHEN c.collision_type = 'Rear' THEN 1 ELSE 0 END AS is_rear_collision,
    CASE WHEN c.driver_relationship = 'Self' THEN 1 ELSE 0 END AS driver_is_policyholder,
    CASE WHEN c.driver_relationship IN ('Spouse', 'Child') THEN 1 ELSE 0 END AS driver_is_family,
    CASE WHEN c.authorities_contacted = 'Police' THEN 1 ELSE 0 END AS police_contacted,
    CASE WHEN c.authorities_contacted = 'None' THEN 1 ELSE 0 END AS nobody_contacted,
    CASE WHEN c.police_report_available = 'Yes' THEN 1 ELSE 0 END AS police_report_available,
    c.num_vehicles_involved AS num_vehicles_involved,
    c.num_injuries AS num_injuries,
    c.num_witnesses AS num_witnesses,
    c.incident_hour AS incident_hour,
    CASE WHEN c.incident_hour >= 22 OR c.incident_hour < 6 THEN 1 ELSE 0 END AS is_night,
    CASE WHEN c.incident_dow >= 5 THEN 1 ELSE 0 END AS is_weekend,
    -- 1900-01-01 was a Monday. A stated day of the week that the date contradicts: a careless statement, or a wrong year on the delivery.
    CASE WHEN DATE_DIFF('day', DATE '1900-01-01', CAST(c.event_time AS DATE)) % 7 = c.incident_dow THEN 0 ELSE 1 END AS weekday_contradicts_date,

    -- The money
    c.injury_claim AS injury_claim,
    c.vehicle_claim AS vehicle_claim,
    -- Over 90 % of policies have the same deductible and most the same premium: one ratio says what both and the total would.
    c.total_claim_amount / NULLIF(p.policy_annual_premium, 0) AS claim_to_premium,

    -- The policy and its holder
    p.customer_age AS customer_age,
    p.months_as_customer AS months_as_customer,
    p.months_as_customer / NULLIF(12.0 * (p.customer_age - 15), 0) AS share_of_driving_life_as_customer,
    p.num_claims_past_year AS num_claims_past_year,
    p.num_insurers_past_5_years AS num_insurers_past_5_years,
    CASE WHEN p.customer_gender = 'Male' THEN 1 ELSE 0 END AS is_male,
    CASE WHEN p.customer_gender = 'Female' THEN 1 ELSE 0 END AS is_female,
    EXTRACT(YEAR FROM c.event_time) - p.auto_year AS auto_age
FROM claims AS c
-- the version of the policy that was known at the incident; a first version holds from the beginning of time
LEFT JOIN customers AS p ON p.policy_id = c.policy_id AND p.available_at <= c.event_time AND c.event_time < p.superseded_at
