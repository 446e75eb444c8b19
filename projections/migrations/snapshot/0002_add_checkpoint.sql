-- How far the projection is: which events of each shard of the log it has applied. Written in the same
-- transaction as what the events changed.
CREATE TABLE snapshot.checkpoint (
    shard      integer        PRIMARY KEY CHECK (shard >= 0),
    -- The offsets. Replicas share a queue, so what one of them has applied may lie ahead of what another
    -- holds: each adds its own.
    applied    int8multirange NOT NULL,
    updated_at timestamptz    NOT NULL
-- No index holds what changes.
) WITH (fillfactor = 50);
