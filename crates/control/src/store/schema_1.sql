-- The control plane's tables, the same for SQLite and PostgreSQL. Times are microseconds since 1970, money is
-- nano-dollars, hashes are 64 hexadecimal digits.

CREATE TABLE wallets (
    id TEXT PRIMARY KEY,                -- that of its user or team: the two share their names
    balance_nanos BIGINT NOT NULL
);

CREATE TABLE wallet_entries (
    wallet TEXT NOT NULL REFERENCES wallets (id),
    kind TEXT NOT NULL,                 -- credit | charge
    reference TEXT NOT NULL,            -- a credit's idempotency key, a charge's batch
    amount_nanos BIGINT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (wallet, kind, reference)
);

CREATE TABLE allowances (
    wallet TEXT NOT NULL REFERENCES wallets (id),
    gateway TEXT NOT NULL,
    version BIGINT NOT NULL,            -- which grant it is
    granted_nanos BIGINT NOT NULL,
    counted_nanos BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (wallet, gateway)
);

CREATE TABLE users (
    id TEXT PRIMARY KEY REFERENCES wallets (id),
    name TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE TABLE teams (
    id TEXT PRIMARY KEY REFERENCES wallets (id),
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE members (
    user_id TEXT PRIMARY KEY REFERENCES users (id),  -- on one team at most
    team_id TEXT NOT NULL REFERENCES teams (id),
    role TEXT NOT NULL                  -- owner | admin | member
);
CREATE INDEX members_of_team ON members (team_id);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    masked TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    owner TEXT REFERENCES users (id),
    team TEXT REFERENCES teams (id),
    wallet TEXT REFERENCES wallets (id),
    models TEXT,                        -- a list in JSON; NULL: all
    limits TEXT NOT NULL,               -- an object in JSON
    expires_at BIGINT,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE INDEX keys_of_owner ON keys (owner);
CREATE INDEX keys_of_team ON keys (team);
CREATE INDEX keys_of_wallet ON keys (wallet);

CREATE TABLE secrets (
    hash TEXT PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES keys (id),
    not_after BIGINT                    -- NULL: the key's own; else it is retiring
);
CREATE INDEX secrets_of_key ON secrets (key_id);

CREATE TABLE key_operations (
    user_id TEXT NOT NULL REFERENCES users (id),
    at BIGINT NOT NULL
);
CREATE INDEX key_operations_of_user ON key_operations (user_id, at);

CREATE TABLE created (                  -- what was made under an Idempotency-Key
    actor TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    digest TEXT NOT NULL,
    key_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (actor, idempotency_key)
);

CREATE TABLE counters (                 -- numbers in the order in which their transactions end
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('changes', 0), ('audit', 0);

CREATE TABLE changes (
    seq BIGINT PRIMARY KEY,
    key_id TEXT NOT NULL,
    hash TEXT,
    at BIGINT NOT NULL
);

CREATE TABLE audit (
    seq BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    address TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL
);

CREATE TABLE usage_records (
    id TEXT PRIMARY KEY,
    gateway TEXT NOT NULL,
    at BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    owner TEXT NOT NULL,                -- '' for none, here and below
    team TEXT NOT NULL,
    wallet TEXT NOT NULL,
    model TEXT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    status BIGINT NOT NULL,
    source TEXT NOT NULL,
    received_at BIGINT NOT NULL
);
CREATE INDEX usage_records_by_time ON usage_records (at);

CREATE TABLE usage_hours (              -- the sums of the records of an hour
    since BIGINT NOT NULL,              -- its beginning
    key_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    team TEXT NOT NULL,
    model TEXT NOT NULL,
    key_name TEXT NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    PRIMARY KEY (key_id, since, model, owner, team)
);
CREATE INDEX usage_hours_by_hour ON usage_hours (since);
CREATE INDEX usage_hours_of_team ON usage_hours (team, since);

CREATE TABLE usage_days (              -- and those of a day, for whoever asks for long times
    since BIGINT NOT NULL,              -- its beginning
    key_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    team TEXT NOT NULL,
    model TEXT NOT NULL,
    key_name TEXT NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    PRIMARY KEY (key_id, since, model, owner, team)
);
CREATE INDEX usage_days_by_hour ON usage_days (since);
CREATE INDEX usage_days_of_team ON usage_days (team, since);
