-- The value of an issuer's claim by which each user signs in to the page, if by any, and the same in lower case, by which it is
-- found: no two users' differ by their case alone.
ALTER TABLE users ADD COLUMN sign_in TEXT;
ALTER TABLE users ADD COLUMN sign_in_folded TEXT;
CREATE UNIQUE INDEX users_by_sign_in ON users (sign_in_folded);
