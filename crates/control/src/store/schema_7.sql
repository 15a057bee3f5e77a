-- Which of the requests that wait for a server goes first: that of the key with the lowest number, from -100 to 100.
ALTER TABLE keys ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
