-- Messages that the broker gave up, taken from the queue ingress.dead so that they can be looked at; and
-- what the sources say of how many frames they have numbered.

CREATE TABLE core.dead_letter (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same for the same message however often it is delivered, and however often it dies.
    identity          text NOT NULL UNIQUE,
    -- What is needed to publish it again.
    routing_key       text NOT NULL,
    message_id        text NOT NULL,
    content_type      text NOT NULL,
    headers           jsonb NOT NULL,
    body              bytea NOT NULL,
    -- What the broker says of its last death, as far as it does.
    reason            text NOT NULL,
    queue             text NOT NULL,
    deaths            bigint NOT NULL CHECK (deaths > 0),
    died_at           timestamptz,
    -- When it was taken from the queue.
    taken_at          timestamptz NOT NULL,
    -- Its workspace, if its connection is that workspace's; unlike what the envelope says.
    workspace         text,
    claimed_workspace text,
    connection        uuid,
    provider          text,
    session           uuid,
    frame_partition   integer,
    -- The numbers that it accounts for: of its frames, and of those that were replaced at their source.
    numbers           int8multirange NOT NULL,
    frames            bigint NOT NULL CHECK (frames >= 0),
    -- Since when it is back in the ingress queue, and how often it was put there.
    replayed_at       timestamptz,
    replays           bigint NOT NULL DEFAULT 0 CHECK (replays >= 0)
);

CREATE INDEX dead_letter_of_session ON core.dead_letter (session, frame_partition) WHERE session IS NOT NULL;
CREATE INDEX dead_letter_taken ON core.dead_letter (taken_at);

-- A session's frames of one partition, as its source numbered them. A session of which no frame has come
-- has a row here and none in core.session.
CREATE TABLE core.session_source (
    session    uuid NOT NULL,
    partition  integer NOT NULL,
    workspace  text NOT NULL,
    connection uuid NOT NULL,
    -- The publisher that said so last.
    instance   text NOT NULL,
    -- The last number that it has given, and since when that is known.
    sent       bigint NOT NULL CHECK (sent >= 0),
    sent_at    timestamptz NOT NULL,
    -- A mark on the way there that is kept for a while: so a number's age is known without a time for each.
    mark       bigint NOT NULL CHECK (mark >= 0),
    mark_at    timestamptz NOT NULL,
    -- The mark before.
    due        bigint NOT NULL CHECK (due >= 0),
    -- Whether the session has ended, so that there will be no further number.
    ended      boolean NOT NULL,
    -- Numbers of dead letters that were discarded, or kept no longer: they will not come.
    given_up   int8multirange NOT NULL DEFAULT '{}',
    PRIMARY KEY (session, partition)
) WITH (fillfactor = 70);

CREATE INDEX session_source_of_connection ON core.session_source (connection, session);

-- Whether anything that the publisher has read is neither confirmed by the broker nor lost: it is in its
-- window or in its spool.
ALTER TABLE core.publisher ADD COLUMN holding boolean NOT NULL DEFAULT false;
