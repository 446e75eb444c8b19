-- What vehicles are judged and found by, beside their values.
ALTER TABLE snapshot.vehicle
    -- Through whom the vehicle was last heard from; before it ever was, who registered it. Follows the
    -- revision.
    ADD COLUMN provider    text COLLATE "C",
    -- The latest time of its observations. Follows the revision.
    ADD COLUMN observed_at timestamptz;

-- What is there already, as the projection would write it (`heard_through`, `latest_observation`).
UPDATE snapshot.vehicle AS stored
SET provider = heard.provider, observed_at = heard.observed_at
FROM (
    SELECT workspace, vehicle,
        (ARRAY_AGG(said_by ORDER BY heard_at DESC, said_by COLLATE "C" DESC))[1] AS provider,
        CASE WHEN MAX(seen_at) >= to_timestamp(0) THEN MAX(seen_at) END AS observed_at
    FROM (
        SELECT known.workspace, known.vehicle, seen_at, said ->> 'provider' AS said_by,
            CASE
                WHEN came_at <= known.last_received_at THEN came_at
                ELSE LEAST(seen_at, known.last_received_at)
            END AS heard_at
        FROM snapshot.vehicle AS known
        CROSS JOIN LATERAL jsonb_each(known.times) AS signal (name, said)
        -- Years that PostgreSQL does not read are those of broken clocks.
        CROSS JOIN LATERAL (
            SELECT CASE
                    WHEN said ->> 'observed_at' ~ '^[1-9][0-9]{3}-'
                    THEN (said ->> 'observed_at')::timestamptz
                END,
                CASE
                    WHEN said ->> 'received_at' ~ '^[1-9][0-9]{3}-'
                    THEN (said ->> 'received_at')::timestamptz
                END
        ) AS parsed (seen_at, came_at)
    ) AS signals
    GROUP BY workspace, vehicle
) AS heard
WHERE stored.workspace = heard.workspace AND stored.vehicle = heard.vehicle;
