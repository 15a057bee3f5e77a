-- What each key used in the last month of UTC in which it was used, by which a list of any length is sorted.
CREATE TABLE key_usage (
    key_id TEXT PRIMARY KEY,
    month BIGINT NOT NULL,              -- its beginning
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,       -- of prompts, from caches or not
    output_tokens BIGINT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);

INSERT INTO key_usage (key_id, month, requests, input_tokens, output_tokens, cost_nanos, last_used_at)
SELECT key_id, month, SUM(requests), SUM(input_tokens + cached_input_tokens + cache_write_tokens), SUM(output_tokens),
    SUM(cost_nanos), MAX(last_used_at)
FROM (SELECT d.*, CAST(EXTRACT(EPOCH FROM date_trunc('month', to_timestamp(d.since / 1000000) AT TIME ZONE 'UTC')) AS BIGINT)
    * 1000000 AS month,
    CAST(EXTRACT(EPOCH FROM date_trunc('month', to_timestamp(l.last / 1000000) AT TIME ZONE 'UTC')) AS BIGINT)
    * 1000000 AS last_month
    FROM usage_days d JOIN (SELECT key_id, MAX(since) AS last FROM usage_days GROUP BY key_id) l ON l.key_id = d.key_id) s
WHERE month = last_month GROUP BY key_id, month;

CREATE INDEX keys_by_name ON keys (name, id);
CREATE INDEX keys_by_age ON keys (created_at, id);
CREATE INDEX wallet_entries_by_time ON wallet_entries (wallet, at);

-- How often each key was refused on a day of UTC, as gateways tell: of 31 days.
CREATE TABLE refusals (
    key_id TEXT NOT NULL,
    day BIGINT NOT NULL,                -- its beginning
    reason TEXT NOT NULL,
    scope TEXT NOT NULL,                -- whose limit it was: key | model | team | owner
    count BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (key_id, day, reason, scope)
);
CREATE INDEX refusals_by_day ON refusals (day);

-- The last report of each gateway, so that each counts once.
CREATE TABLE refusal_reports (
    gateway TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL
);
