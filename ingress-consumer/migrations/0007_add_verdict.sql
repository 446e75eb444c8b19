-- The latest observations of each vehicle that did not become its state, newest first, with what each
-- lost against. Only explanations, so they are not worth the write-ahead log: a crash of the database
-- empties the table.
CREATE UNLOGGED TABLE core.verdict (
    workspace text NOT NULL,
    vehicle   text NOT NULL,
    recent    jsonb NOT NULL,
    PRIMARY KEY (workspace, vehicle)
) WITH (fillfactor = 50);
