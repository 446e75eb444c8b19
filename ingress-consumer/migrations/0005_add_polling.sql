-- What is asked of polled providers: who asks, how far each feed has been read, and what the providers'
-- budgets allow. All times are of this database's clock.

-- One row per connection of kind poll. Its lease covers all of the connection's feeds, so no two replicas
-- ask for one connection at the same time.
CREATE TABLE core.poll (
    connection  uuid PRIMARY KEY REFERENCES core.connection,
    paused      boolean NOT NULL DEFAULT false,
    -- When the next of its feeds is due, or later where the provider refuses.
    due_at      timestamptz NOT NULL DEFAULT now(),
    -- Somebody wants it read at once, whatever the run that goes on has read already.
    asked       boolean NOT NULL DEFAULT false,
    -- The provider has refused what it was asked last.
    refused     boolean NOT NULL DEFAULT false,
    -- Raised by each claim. What was read under an earlier one is not taken any more.
    epoch       bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    owner       text,
    lease_until timestamptz,
    -- What others were told last of how the connection is doing.
    told        text,
    CHECK ((owner IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 70);

CREATE INDEX poll_due ON core.poll (due_at) WHERE NOT paused;

CREATE TABLE core.poll_feed (
    connection           uuid NOT NULL REFERENCES core.poll ON DELETE CASCADE,
    feed                 text NOT NULL,
    -- Where to read on; what it means is the provider's.
    cursor               jsonb,
    due_at               timestamptz NOT NULL DEFAULT now(),
    -- The feed's records are numbered in this session, in partition 0, whoever reads them. The next
    -- number is one above the last that core.session has seen.
    session              uuid NOT NULL,
    -- The provider has more already.
    behind               boolean NOT NULL DEFAULT true,
    -- The budget was used up when it was last due.
    limited              boolean NOT NULL DEFAULT false,
    consecutive_failures bigint NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0),
    last_success_at      timestamptz,
    last_error           text,
    last_error_at        timestamptz,
    -- Of the last run that read a page.
    run_pages            bigint NOT NULL DEFAULT 0,
    run_rows             bigint NOT NULL DEFAULT 0,
    -- Up to when, by the provider's clock, it has been read.
    read_until           timestamptz,
    PRIMARY KEY (connection, feed)
) WITH (fillfactor = 70);

-- What may be asked, shared by all connections with the same credential at the same provider and by all
-- replicas.
CREATE TABLE core.poll_budget (
    -- A hash of provider, host and the reference of the credential.
    budget        text NOT NULL,
    pool          text NOT NULL,
    -- When the next request may leave.
    free_at       timestamptz NOT NULL,
    -- Until when the provider allows none.
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',
    PRIMARY KEY (budget, pool)
) WITH (fillfactor = 70);

INSERT INTO core.poll (connection)
SELECT connection FROM core.connection WHERE kind = 'poll' AND removed_at IS NULL;
