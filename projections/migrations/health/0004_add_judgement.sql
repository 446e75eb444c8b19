-- Why a vehicle is not fresh, outages of providers, the history of it all, and what is still to be told.

-- One connection's outage.
CREATE TABLE health.incident (
    incident   uuid PRIMARY KEY,
    workspace  text COLLATE "C" NOT NULL,
    connection uuid NOT NULL,
    provider   text NOT NULL,
    reason     text NOT NULL,
    opened_at  timestamptz NOT NULL,
    closed_at  timestamptz,
    -- How many vehicles are heard from through the connection.
    vehicles   bigint NOT NULL,
    CHECK (closed_at >= opened_at)
);

-- At most one at a time for a connection.
CREATE UNIQUE INDEX incident_open ON health.incident (workspace, connection) WHERE closed_at IS NULL;
CREATE INDEX incident_by_workspace ON health.incident (workspace, incident);

ALTER TABLE health.connection
    -- Since when the provider has not been sending; none while all is well.
    ADD COLUMN out_since timestamptz,
    -- Why, as a word.
    ADD COLUMN out_reason text,
    -- Since when it sends.
    ADD COLUMN well_since timestamptz,
    -- The incident that is open.
    ADD COLUMN incident uuid REFERENCES health.incident;

UPDATE health.connection
SET out_since = CASE WHEN status IN ('disconnected', 'silent') THEN since END,
    out_reason = CASE status WHEN 'disconnected' THEN COALESCE(reason, status) WHEN 'silent' THEN status END,
    well_since = CASE WHEN status = 'subscribed' THEN since END;

CREATE INDEX connection_in_trouble ON health.connection (workspace, connection)
    WHERE out_since IS NOT NULL OR incident IS NOT NULL;

ALTER TABLE health.vehicle
    -- The connection that registered it.
    ADD COLUMN connection uuid,
    -- The provider that it was last heard from through.
    ADD COLUMN provider text COLLATE "C",
    ADD COLUMN cause text CHECK (cause IN ('source_silent', 'pipeline_late', 'provider_outage')),
    ADD COLUMN incident uuid,
    -- What was last said of it on the event bus, and how many times anything was.
    ADD COLUMN said_freshness text
        CHECK (said_freshness IN ('fresh', 'stale', 'offline', 'never_seen')),
    ADD COLUMN said_cause text
        CHECK (said_cause IN ('source_silent', 'pipeline_late', 'provider_outage')),
    ADD COLUMN said bigint NOT NULL DEFAULT 0;

UPDATE health.vehicle
SET cause = CASE WHEN freshness IN ('stale', 'offline') THEN 'source_silent' END,
    said_freshness = freshness,
    said_cause = CASE WHEN freshness IN ('stale', 'offline') THEN 'source_silent' END;

ALTER TABLE health.vehicle
    ADD CHECK ((cause IS NULL) = (freshness IN ('fresh', 'never_seen'))),
    ADD CHECK ((incident IS NULL) = (cause IS DISTINCT FROM 'provider_outage'));

CREATE INDEX vehicle_late ON health.vehicle (since) WHERE cause = 'pipeline_late';
CREATE INDEX vehicle_incident ON health.vehicle (incident) WHERE incident IS NOT NULL;

-- The history: every change of a vehicle's freshness or of its cause.
CREATE TABLE health.transition (
    entry            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    found_at         timestamptz NOT NULL,
    workspace        text COLLATE "C" NOT NULL,
    vehicle          text COLLATE "C" NOT NULL,
    -- The vehicle's number of the event that says so; none where an incident stands for it.
    number           bigint,
    freshness        text NOT NULL,
    previous         text,
    cause            text,
    incident         uuid,
    provider         text,
    since            timestamptz NOT NULL,
    last_received_at timestamptz
);

CREATE INDEX transition_by_workspace ON health.transition (workspace, found_at, entry);
CREATE INDEX transition_by_vehicle ON health.transition (workspace, vehicle, found_at, entry);
CREATE INDEX transition_by_age ON health.transition (found_at);

-- What the core is told, in the order in which it was found: numbers are dense and in commit order.
CREATE TABLE health.finding (
    number     bigint PRIMARY KEY CHECK (number > 0),
    found_at   timestamptz NOT NULL,
    workspace  text COLLATE "C" NOT NULL,
    event_type text NOT NULL,
    data       jsonb NOT NULL
);

CREATE TABLE health.finding_head (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The last number that was given.
    found  bigint NOT NULL,
    -- Everything up to this number is in the core's event log.
    told   bigint NOT NULL
) WITH (fillfactor = 50);

INSERT INTO health.finding_head (found, told) VALUES (0, 0);

-- The limits that all vehicles were judged by last.
CREATE TABLE health.judged_by (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    limits jsonb NOT NULL
);
