-- Invitations to teams, and teams that were deleted. What was in a deleted team's wallet may have gone to another's: by an
-- entry of the kind `refund` in both, whose reference is the other wallet.
CREATE TABLE invitations (
    team_id TEXT NOT NULL REFERENCES teams (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,                 -- owner | admin | member
    invited_by TEXT NOT NULL,           -- a user's id
    at BIGINT NOT NULL,
    declined_at BIGINT,                 -- NULL: it is open; else its team does not repeat it for a while
    PRIMARY KEY (team_id, user_id)
);
CREATE INDEX invitations_of_user ON invitations (user_id, team_id);

ALTER TABLE teams ADD COLUMN deleted_at BIGINT;     -- its id stays taken, for the sake of its history
