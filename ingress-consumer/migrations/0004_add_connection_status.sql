-- How each stream connection is doing, as its owner said last.
CREATE TABLE core.connection_status (
    connection        uuid PRIMARY KEY REFERENCES core.connection,
    workspace         text NOT NULL,
    provider          text NOT NULL,
    -- Order the reports: whatever arrives late changes nothing.
    epoch             bigint NOT NULL CHECK (epoch >= 0),
    number            bigint NOT NULL CHECK (number >= 0),
    -- Raised by every write; orders the events.
    revision          bigint NOT NULL CHECK (revision > 0),
    status            text NOT NULL
        CHECK (status IN ('connected', 'subscribed', 'silent', 'disconnected')),
    since             timestamptz NOT NULL,
    reason            text,
    error             text,
    owner             text NOT NULL,
    session           uuid,
    frames_per_minute bigint NOT NULL,
    reconnects        bigint NOT NULL
) WITH (fillfactor = 70);

-- Connections whose owner was lost, until it says again how they are doing.
CREATE INDEX connection_status_unowned ON core.connection_status (connection) WHERE reason = 'unowned';
