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

-- Whether frames wait in the publisher's spool: they will come.
ALTER TABLE core.publisher ADD COLUMN holding boolean NOT NULL DEFAULT false;

-- How many numbers there are.
CREATE FUNCTION core.size(numbers int8multirange) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(sum(upper(part) - lower(part)), 0)::bigint FROM unnest(numbers) AS part
$$;

-- What became of the numbers of each session and partition. Each number is in one column; together they
-- are all from 1 to the last one that is known to have been given.
CREATE VIEW core.numbering AS
WITH dead AS (
    SELECT session, frame_partition AS partition, workspace, connection, range_agg(numbers) AS numbers
    FROM core.dead_letter
    WHERE workspace IS NOT NULL AND session IS NOT NULL AND frame_partition IS NOT NULL
      -- One that was put back a moment ago is on its way.
      AND (replayed_at IS NULL OR replayed_at > now() - interval '1 minute')
    GROUP BY session, frame_partition, workspace, connection
), stray AS (
    -- Parked, but in nobody's account: such numbers are not seen.
    SELECT session, frame_partition AS partition,
           range_agg(int8range(frame_number, frame_number + 1)) AS numbers
    FROM core.parked_frame
    WHERE workspace IS NULL AND session IS NOT NULL AND frame_partition IS NOT NULL
      AND frame_number IS NOT NULL
    GROUP BY session, frame_partition
), known AS (
    SELECT session, partition,
           coalesce(arrived.workspace, source.workspace, dead.workspace) AS workspace,
           coalesce(arrived.connection, source.connection, dead.connection) AS connection,
           coalesce(arrived.seen, '{}') AS seen,
           coalesce(arrived.conflated, '{}') AS conflated,
           coalesce(dead.numbers, '{}') AS dead,
           coalesce(source.given_up, '{}') AS given_up,
           coalesce(stray.numbers, '{}') AS stray,
           coalesce(source.sent, 0) AS said,
           source.sent_at, source.mark, source.mark_at, source.due, source.instance,
           arrived.last_at,
           -- Of a session that is only counted any more, dead letters say nothing of the other numbers.
           (arrived.session IS NOT NULL OR source.instance <> '') IS TRUE AS is_known
    FROM core.session AS arrived
    FULL JOIN core.session_source AS source USING (session, partition)
    FULL JOIN dead USING (session, partition)
    LEFT JOIN stray USING (session, partition)
), total AS (
    SELECT *, seen + conflated + dead + given_up + stray AS covered
    FROM known
), counted AS (
    SELECT *,
           CASE WHEN is_known THEN GREATEST(said, coalesce(upper(covered) - 1, 0))
                ELSE core.size(covered) END AS sent
    FROM total
)
SELECT session, partition, workspace, connection, sent,
       seen,
       conflated - seen AS conflated,
       dead - seen - conflated AS dead,
       given_up - seen - conflated - dead AS given_up,
       stray - seen - conflated - dead - given_up AS stray,
       CASE WHEN is_known THEN int8multirange(int8range(1, sent + 1)) - covered
            ELSE '{}' END AS missing,
       sent_at, mark, mark_at, due, instance, last_at
FROM counted;
