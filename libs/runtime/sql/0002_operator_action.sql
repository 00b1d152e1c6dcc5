-- migrate:up

-- What people changed by hand, each row written in the transaction that made the change. Never changed, never deleted.
CREATE TABLE operator_action (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL,
    action   text NOT NULL,
    operator text NOT NULL,
    reason   text NOT NULL,
    consumer text NOT NULL,
    topic    text NOT NULL,
    key      bytea,
    details  jsonb NOT NULL
);

-- migrate:down
DROP TABLE operator_action;
