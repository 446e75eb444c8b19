-- How recently every vehicle was heard from, and until when that judgement holds.
CREATE TABLE health.vehicle (
    workspace        text COLLATE "C" NOT NULL,
    vehicle          text COLLATE "C" NOT NULL,
    -- The first and the last receipt of the latest run in which no gap made the vehicle stale.
    heard_since      timestamptz,
    last_received_at timestamptz,
    freshness        text             NOT NULL
        CHECK (freshness IN ('fresh', 'stale', 'offline', 'never_seen')),
    -- When the current freshness began.
    since            timestamptz      NOT NULL,
    -- When it ends unless the vehicle is heard from; none if silence changes nothing any more.
    deadline         timestamptz,
    PRIMARY KEY (workspace, vehicle),
    CHECK ((heard_since IS NULL) = (last_received_at IS NULL)),
    CHECK ((last_received_at IS NULL) = (freshness = 'never_seen'))
);

CREATE INDEX vehicle_deadline ON health.vehicle (deadline) WHERE deadline IS NOT NULL;
