-- What sessions of the page are signed with, the same at all instances.
CREATE TABLE page_secret (
    id BIGINT PRIMARY KEY,              -- 1: there is one
    secret TEXT NOT NULL
);
