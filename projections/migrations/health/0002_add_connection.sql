-- How every stream connection is doing.
CREATE TABLE health.connection (
    workspace         text COLLATE "C" NOT NULL,
    connection        uuid NOT NULL,
    provider          text NOT NULL,
    -- Orders what events say.
    revision          bigint NOT NULL,
    status            text NOT NULL,
    since             timestamptz NOT NULL,
    reason            text,
    last_error        text,
    owner             text NOT NULL,
    epoch             bigint NOT NULL,
    frames_per_minute bigint NOT NULL,
    reconnects        bigint NOT NULL,
    -- A removed connection's row stays, so that a late event does not bring it back.
    removed           boolean NOT NULL,
    PRIMARY KEY (workspace, connection)
) WITH (fillfactor = 70);
