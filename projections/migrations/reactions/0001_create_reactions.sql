-- Whom to tell of what: a webhook's endpoint.
CREATE TABLE reactions.endpoint (
    id              uuid PRIMARY KEY,
    workspace       text COLLATE "C" NOT NULL,
    url             text NOT NULL,
    description     text NOT NULL,
    -- None stands for all.
    event_types     text[],
    vehicles        text[],
    providers       text[],
    secret          bytea NOT NULL,
    -- Signs beside the new one for a while after a rotation.
    previous_secret bytea,
    previous_until  timestamptz,
    enabled         boolean NOT NULL,
    disabled_reason text CHECK (disabled_reason IN ('by_hand', 'gone', 'failing')),
    disabled_at     timestamptz,
    -- The first failed attempt since the last that succeeded.
    failing_since   timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    -- A removed endpoint is gone for everybody; its deliveries are deleted little by little.
    removed_at      timestamptz,
    CHECK (enabled = (disabled_reason IS NULL)),
    CHECK (enabled = (disabled_at IS NULL)),
    CHECK ((previous_secret IS NULL) = (previous_until IS NULL))
);

CREATE INDEX endpoint_workspace ON reactions.endpoint (workspace, id) WHERE removed_at IS NULL;

-- One event for one endpoint.
CREATE TABLE reactions.delivery (
    id         uuid PRIMARY KEY,
    endpoint   uuid NOT NULL REFERENCES reactions.endpoint,
    event      text COLLATE "C" NOT NULL,
    event_type text NOT NULL,
    subject    text,
    -- What is sent, byte for byte: every attempt signs the same text.
    body       text NOT NULL,
    created_at timestamptz NOT NULL,
    status     text NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed', 'skipped')),
    -- How often it was sent, and how often since it was last put at the start of the schedule.
    attempts   integer NOT NULL DEFAULT 0,
    retries    integer NOT NULL DEFAULT 0,
    -- When a pending one is due; while a sender holds it, when its lease ends.
    due_at     timestamptz NOT NULL,
    -- The sender's token; none while nobody holds it.
    claim      uuid,
    done_at    timestamptz,
    CHECK ((status = 'pending') = (done_at IS NULL)),
    CHECK (claim IS NULL OR status = 'pending'),
    -- What the bus brings twice makes one delivery.
    UNIQUE (endpoint, event)
);

-- With what is counted, so that counting need not read the rows.
CREATE INDEX delivery_due ON reactions.delivery (endpoint, due_at) INCLUDE (created_at)
    WHERE status = 'pending';
CREATE INDEX delivery_recoverable ON reactions.delivery (endpoint, created_at)
    WHERE status IN ('failed', 'skipped');
CREATE INDEX delivery_listed ON reactions.delivery (endpoint, id);
CREATE INDEX delivery_done ON reactions.delivery (done_at) WHERE status <> 'pending';

-- One call, and what came of it.
CREATE TABLE reactions.attempt (
    delivery    uuid NOT NULL REFERENCES reactions.delivery ON DELETE CASCADE,
    number      integer NOT NULL,
    started_at  timestamptz NOT NULL,
    duration_ms bigint NOT NULL,
    outcome     text NOT NULL,
    -- The answer's status, if there was an answer.
    status      integer,
    error       text,
    -- The beginning of the answer's body.
    response    text,
    PRIMARY KEY (delivery, number)
);
