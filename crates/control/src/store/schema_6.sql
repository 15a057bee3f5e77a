-- What each user changed within the last hour, beside the secrets that they made, and the sessions that they ended.
CREATE TABLE change_operations (
    user_id TEXT NOT NULL REFERENCES users (id),
    at BIGINT NOT NULL
);
CREATE INDEX change_operations_of_user ON change_operations (user_id, at);

CREATE TABLE sign_out_operations (
    user_id TEXT NOT NULL REFERENCES users (id),
    at BIGINT NOT NULL
);
CREATE INDEX sign_out_operations_of_user ON sign_out_operations (user_id, at);

-- operator | user; '' where it was noted before kinds were: such an entry is never changed.
ALTER TABLE audit ADD COLUMN actor_kind TEXT NOT NULL DEFAULT '';

-- What a user may see is found without looking at others'.
CREATE INDEX usage_hours_of_owner ON usage_hours (owner, team, since);
CREATE INDEX usage_days_of_owner ON usage_days (owner, team, since);
