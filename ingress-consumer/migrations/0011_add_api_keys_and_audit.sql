-- Who may use the APIs, and who has changed what through them.

CREATE TABLE core.api_key (
    -- What names it, in lists and logs: 16 hexadecimal digits.
    id           text PRIMARY KEY,
    -- SHA-256 of its secret, which is kept nowhere.
    digest       text NOT NULL,
    -- What its owner calls it.
    name         text NOT NULL,
    workspaces   text[] NOT NULL CHECK (cardinality(workspaces) > 0),
    scopes       text[] NOT NULL CHECK (cardinality(scopes) > 0),
    created_at   timestamptz NOT NULL,
    -- The principal that made it.
    created_by   text NOT NULL,
    expires_at   timestamptz,
    -- A revoked key stays: the audit log names it.
    revoked_at   timestamptz,
    -- Written once a minute at most.
    last_used_at timestamptz
);

CREATE INDEX api_key_of_workspace ON core.api_key USING gin (workspaces);
CREATE INDEX api_key_created ON core.api_key (created_at, id);

-- A row is there before the change is tried.
CREATE TABLE core.audit (
    -- Sorts by time.
    id        uuid PRIMARY KEY,
    at        timestamptz NOT NULL,
    principal text NOT NULL,
    workspace text,
    method    text NOT NULL,
    -- The path as the API declares it, and as it was asked; never a query or a body.
    route     text NOT NULL,
    path      text NOT NULL,
    -- Of the answer; none until it is over.
    status    integer,
    trace_id  text
);

CREATE INDEX audit_of_workspace ON core.audit (workspace, id) WHERE workspace IS NOT NULL;
CREATE INDEX audit_at ON core.audit (at);
