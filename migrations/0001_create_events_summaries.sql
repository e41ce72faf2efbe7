-- The optional copy of the history in PostgreSQL: every event once, and crossings counted by minute, hour and day.
-- Hours and days are those of the site's zone; a bucket is named by when it begins.

CREATE TABLE events (
    id        text PRIMARY KEY,
    ts        timestamptz NOT NULL,
    kind      text NOT NULL,
    camera    text NOT NULL,
    line      text,
    direction text,
    class     text,
    track     bigint,
    payload   jsonb NOT NULL
);

CREATE INDEX events_ts ON events (ts);
CREATE INDEX events_camera_ts ON events (camera, ts);
CREATE INDEX events_kind_ts ON events (kind, ts);

CREATE TABLE summaries (
    bucket    timestamptz NOT NULL,
    period    text NOT NULL CHECK (period IN ('minute', 'hour', 'day')),
    camera    text NOT NULL,
    line      text NOT NULL,
    class     text NOT NULL,
    direction text NOT NULL,
    count     bigint NOT NULL,
    PRIMARY KEY (bucket, period, camera, line, class, direction)
);
