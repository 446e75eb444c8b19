-- Requests of HTTP provider-ingest that carried an Idempotency-Key, with what they were answered:
-- written in the transaction of their effect.
CREATE TABLE core.ingest_key (
    workspace   text NOT NULL,
    key         text NOT NULL,
    -- Hash of the request's body: the same key never stands for two requests.
    fingerprint bytea NOT NULL,
    answer      jsonb NOT NULL,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (workspace, key)
);

CREATE INDEX ingest_key_created ON core.ingest_key (created_at);

-- What a replay needs, how often it was tried, and how many copies a row stands for. Rows of before
-- have neither partition nor origin: the partition is also in their identity.
ALTER TABLE core.parked_frame
    ADD COLUMN frame_partition integer,
    ADD COLUMN frame_origin    text CHECK (frame_origin IN ('live', 'state', 'backfill')),
    -- Whose the envelope said that it is. Unlike the workspace, nobody has checked it.
    ADD COLUMN claimed_workspace text,
    -- Replays that parked it again.
    ADD COLUMN attempts        bigint NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- Further copies, byte for byte the same, that were counted and not stored.
    ADD COLUMN repeats         bigint NOT NULL DEFAULT 0 CHECK (repeats >= 0),
    -- When the last copy came.
    ADD COLUMN last_at         timestamptz NOT NULL DEFAULT now(),
    -- The same for copies: hash of connection, reason and body.
    ADD COLUMN fingerprint     bytea;

UPDATE core.parked_frame SET last_at = parked_at;

CREATE INDEX parked_frame_copies ON core.parked_frame (fingerprint, last_at);
CREATE INDEX parked_frame_of_connection ON core.parked_frame (connection, id);
CREATE INDEX parked_frame_last ON core.parked_frame (last_at);
