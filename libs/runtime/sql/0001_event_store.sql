-- migrate:up

-- The append-only log of one service. The application's role may INSERT and SELECT, nothing else.
CREATE TABLE events (
    global_position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id       text COLLATE "C" NOT NULL,
    stream_version  integer NOT NULL CHECK (stream_version > 0),
    event_id        uuid NOT NULL,
    event_type      text NOT NULL,
    schema_version  smallint NOT NULL,
    data            bytea NOT NULL,
    metadata        bytea NOT NULL,
    recorded_at     timestamptz NOT NULL,
    UNIQUE (stream_id, stream_version)
);
CREATE INDEX events_recorded_at ON events USING brin (recorded_at);

CREATE VIEW event_log AS
SELECT global_position, stream_id, stream_version, event_id, event_type, schema_version, recorded_at,
       convert_from(data, 'UTF8')::jsonb AS data,
       convert_from(metadata, 'UTF8')::jsonb AS metadata
FROM events;

-- One row a stream: what a writer locks. Snapshot and deadline stand here, so that no second look-up is needed.
CREATE TABLE stream_head (
    stream_id            text COLLATE "C" PRIMARY KEY,
    stream_version       integer NOT NULL,
    due_at               timestamptz,
    snapshot             bytea,
    snapshot_version     integer NOT NULL DEFAULT 0,
    snapshot_fingerprint text NOT NULL DEFAULT ''
) WITH (fillfactor = 80);
CREATE INDEX stream_head_due ON stream_head (due_at) WHERE due_at IS NOT NULL;

-- A pointer to each event that Kafka has not acknowledged yet: inserted with it, deleted by the relay.
CREATE TABLE outbox (
    global_position bigint PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE consumer_position (
    consumer    text NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    next_offset bigint NOT NULL,
    processed   bigint NOT NULL DEFAULT 0,
    duplicate   bigint NOT NULL DEFAULT 0,
    parked      bigint NOT NULL DEFAULT 0,
    skipped     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, topic, partition)
);

-- The last version heard of each stream: drops repeats, shows gaps.
CREATE TABLE seen (
    consumer       text NOT NULL,
    stream_id      text COLLATE "C" NOT NULL,
    stream_version integer NOT NULL,
    PRIMARY KEY (consumer, stream_id)
) WITH (fillfactor = 80);

CREATE TABLE parked_key (
    consumer  text NOT NULL,
    topic     text NOT NULL,
    key       bytea NOT NULL,
    reason    text NOT NULL,
    parked_at timestamptz NOT NULL,
    PRIMARY KEY (consumer, topic, key)
);

CREATE TABLE parked_record (
    consumer       text NOT NULL,
    topic          text NOT NULL,
    partition      integer NOT NULL,
    record_offset  bigint NOT NULL,
    key            bytea NOT NULL,
    stream_id      text COLLATE "C" NOT NULL,
    stream_version integer NOT NULL,
    reason         text NOT NULL,
    headers        bytea NOT NULL,
    value          bytea,
    recorded_at    timestamptz NOT NULL,
    parked_at      timestamptz NOT NULL,
    PRIMARY KEY (consumer, topic, partition, record_offset)
);
CREATE INDEX parked_record_key ON parked_record (consumer, topic, key, stream_id, stream_version);

-- Answers to callers, kept so that the same key gives the same answer.
CREATE TABLE idempotency (
    key        text COLLATE "C" PRIMARY KEY,
    body_hash  bytea NOT NULL,
    answer     bytea NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX idempotency_created_at ON idempotency USING brin (created_at);

-- Calls to the outside that an event intends; a row leaves with the answer.
CREATE TABLE effect (
    id             uuid PRIMARY KEY,
    kind           text NOT NULL,
    key            text NOT NULL,
    stream_id      text COLLATE "C" NOT NULL,
    stream_version integer NOT NULL,
    due_at         timestamptz NOT NULL,
    attempts       integer NOT NULL DEFAULT 0,
    lease_until    timestamptz
);
CREATE INDEX effect_due ON effect (due_at);

CREATE TABLE lease (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE SCHEMA reporting;

-- migrate:down
DROP SCHEMA reporting CASCADE;
DROP TABLE lease, effect, idempotency, parked_record, parked_key, seen, consumer_position, outbox, stream_head;
DROP VIEW event_log;
DROP TABLE events;
