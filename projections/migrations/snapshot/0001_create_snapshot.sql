-- The latest published state of every vehicle.
CREATE TABLE snapshot.vehicle (
    -- Byte order: the same in every locale, so that a page cursor never skips a vehicle.
    workspace        text COLLATE "C" NOT NULL,
    vehicle          text COLLATE "C" NOT NULL,
    -- Orders the values; 0 while none are known.
    version          bigint           NOT NULL CHECK (version >= 0),
    -- name -> {value, unit}
    signals          jsonb            NOT NULL CHECK (jsonb_typeof(signals) = 'object'),
    -- Orders the times; 0 while none are known.
    revision         bigint           NOT NULL CHECK (revision >= 0),
    -- name -> {observed_at, received_at, provider, clock_ahead?}
    times            jsonb            NOT NULL CHECK (jsonb_typeof(times) = 'object'),
    last_received_at timestamptz,
    PRIMARY KEY (workspace, vehicle)
-- No index holds what changes, so an update that finds room on its page touches no index.
) WITH (fillfactor = 80);
