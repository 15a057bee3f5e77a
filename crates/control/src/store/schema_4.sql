-- Sessions of the page that their holders ended, for as long as their cookies would have been good.
CREATE TABLE ended_sessions (
    nonce TEXT PRIMARY KEY,             -- by which a session differs from all others
    until BIGINT NOT NULL               -- seconds since 1970: then the cookie is of no use anyway
);
