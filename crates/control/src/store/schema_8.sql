-- What teams and users may use with all their keys together, objects in JSON as a key's own limits are, and the networks that
-- a key may be used from, a list in JSON; NULL: from everywhere.
ALTER TABLE users ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
ALTER TABLE teams ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
ALTER TABLE keys ADD COLUMN allow_from TEXT;
