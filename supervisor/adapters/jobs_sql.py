"""The text of the job store: the scripts that make its file, and every statement that is run on it."""

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL, priority INTEGER NOT NULL,
        created REAL NOT NULL, completed REAL, doc BLOB NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_status ON jobs (status, created);
    CREATE INDEX jobs_by_created ON jobs (created);
    CREATE TABLE attempts (
        job TEXT NOT NULL, attempt INTEGER NOT NULL, worker TEXT, status TEXT NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
        PRIMARY KEY (job, attempt)
    ) STRICT;
    CREATE TABLE leases (id TEXT PRIMARY KEY, device TEXT NOT NULL, worker TEXT NOT NULL, fence INTEGER NOT NULL, doc BLOB NOT NULL) STRICT;
    CREATE TABLE fences (name TEXT PRIMARY KEY, fence INTEGER NOT NULL) STRICT;
    """,
    """
    ALTER TABLE jobs ADD COLUMN result_file TEXT;
    ALTER TABLE jobs ADD COLUMN result_sha256 TEXT;
    DROP INDEX jobs_by_created;
    CREATE INDEX jobs_by_place ON jobs (created, id);
    CREATE INDEX jobs_by_end ON jobs (coalesce(completed, created)) WHERE status IN ('completed', 'failed', 'cancelled');
    CREATE TABLE tombstones (job TEXT PRIMARY KEY, kind TEXT NOT NULL, status TEXT NOT NULL, completed REAL NOT NULL) STRICT;
    CREATE INDEX tombstones_by_end ON tombstones (completed);
    CREATE TABLE keys (key TEXT PRIMARY KEY, job TEXT NOT NULL, fingerprint TEXT NOT NULL, created REAL NOT NULL) STRICT;
    CREATE INDEX keys_by_created ON keys (created);
    CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT, doc BLOB NOT NULL) STRICT;
    CREATE INDEX events_by_job ON events (job, seq) WHERE job IS NOT NULL;
    CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
    """
    CREATE TABLE trimmed (seq INTEGER NOT NULL) STRICT;
    INSERT INTO trimmed (seq) SELECT coalesce((SELECT min(seq) - 1 FROM events), (SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0);
    """,
    """
    ALTER TABLE leases RENAME COLUMN worker TO owner;
    """,
    """
    CREATE TABLE peaks (place INTEGER PRIMARY KEY, work TEXT NOT NULL UNIQUE, seen_bytes INTEGER NOT NULL, wanted_bytes INTEGER NOT NULL) STRICT;
    """,
    """
    ALTER TABLE peaks ADD COLUMN memory_bytes INTEGER NOT NULL DEFAULT 0;
    """,
)
"""One script for each version of the file, run in order; `user_version` says which were. A released one is never changed."""

SAVE_KEY: Final = """
    INSERT INTO keys (key, job, fingerprint, created)
    SELECT :key, :id, :fingerprint, :created WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE id = :id) AND NOT EXISTS (SELECT 1 FROM tombstones WHERE job = :id)
    ON CONFLICT (key) DO NOTHING
"""
"""Only with a job's first write: a later one would bring a key back that has run out. The first job under a key keeps it."""

SAVE: Final = """
    INSERT INTO jobs (id, kind, status, attempt, priority, created, completed, doc, result_file, result_sha256)
    SELECT :id, :kind, :status, :attempt, :priority, :created, :completed, :doc, :file, :sha256 WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE job = :id)
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, attempt = excluded.attempt, priority = excluded.priority, completed = excluded.completed,
        doc = excluded.doc, result_file = excluded.result_file, result_sha256 = excluded.result_sha256
    WHERE excluded.attempt >= jobs.attempt AND jobs.status NOT IN ('completed', 'failed', 'cancelled')
"""

SAVE_ATTEMPT: Final = """
    INSERT INTO attempts (job, attempt, worker, status, reason, message)
    SELECT :id, :attempt, :worker, :status, :reason, :message WHERE EXISTS (SELECT 1 FROM jobs WHERE id = :id)
    ON CONFLICT (job, attempt) DO UPDATE SET worker = coalesce(excluded.worker, attempts.worker), status = excluded.status, reason = excluded.reason,
        message = excluded.message
    WHERE attempts.status NOT IN ('completed', 'failed', 'cancelled')
"""

FIND: Final = "SELECT doc, result_file, result_sha256 FROM jobs WHERE id = ?"
FIND_BEGINNING: Final = "SELECT doc, result_file, result_sha256 FROM jobs WHERE id >= ? AND id < ? LIMIT 2"

PAGE: Final = """
    SELECT doc FROM jobs
    WHERE (:statuses = '[]' OR status IN (SELECT value FROM json_each(:statuses))) AND (:kind = '' OR kind = :kind)
        AND (:id IS NULL OR (created, id) < (:created, :id))
    ORDER BY created DESC, id DESC LIMIT :limit
"""

LIVE: Final = "SELECT doc FROM jobs WHERE status NOT IN ('completed', 'failed', 'cancelled') ORDER BY created, id"
COUNTS: Final = "SELECT status, count(*) FROM jobs GROUP BY status"
RESULT_FILES: Final = "SELECT result_file FROM jobs WHERE result_file IS NOT NULL"

ENDED: Final = """
    SELECT id, result_file FROM jobs
    WHERE status IN ('completed', 'failed', 'cancelled') AND coalesce(completed, created) < ? ORDER BY coalesce(completed, created) LIMIT ?
"""
BURY: Final = (
    "INSERT OR REPLACE INTO tombstones (job, kind, status, completed) SELECT id, kind, status, coalesce(completed, created) FROM jobs WHERE id = ?",
    "UPDATE trimmed SET seq = max(seq, coalesce((SELECT max(seq) FROM events WHERE job = ?), 0))",
    "DELETE FROM events WHERE job = ?",
    "DELETE FROM attempts WHERE job = ?",
    "DELETE FROM jobs WHERE id = ?",
)
FORGET_TOMBSTONES: Final = "DELETE FROM tombstones WHERE completed < ?"
FORGET_KEYS: Final = "DELETE FROM keys WHERE created < ?"

_LIVE_JOBS: Final = "SELECT id FROM jobs WHERE status NOT IN ('completed', 'failed', 'cancelled')"
_OF_NO_LIVE_JOB: Final = f"(job IS NULL OR job NOT IN ({_LIVE_JOBS}))"  # made of constants
TALKATIVE: Final = f"SELECT job FROM events WHERE job IN ({_LIVE_JOBS}) GROUP BY job HAVING count(*) > :kept"  # noqa: S608  # made of constants
TRIM_EVENTS: Final = tuple(
    f"""
    DELETE FROM events WHERE seq IN (
        SELECT seq FROM events
        WHERE {which} AND seq <= (SELECT seq FROM events WHERE {which} ORDER BY seq DESC LIMIT 1 OFFSET :kept)
        ORDER BY seq LIMIT :at_once
    ) RETURNING seq
    """  # noqa: S608  # made of constants
    for which in (_OF_NO_LIVE_JOB, "job = :job")
)
"""Takes away what is older than the newest so many: of all that belongs to no live job, or of one job. At most so many at once: no other write waits long."""
TRIMMED: Final = "UPDATE trimmed SET seq = max(seq, ?)"
"""Up to there something may be missing: whoever has seen less is told so."""

APPEND_EVENT: Final = "INSERT INTO events (job, doc) VALUES (?, ?) RETURNING seq"
EVENTS_SINCE: Final = "SELECT seq, doc FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
EVENTS_OF_JOB: Final = "SELECT seq, doc FROM events WHERE seq > ? AND job = ? ORDER BY seq LIMIT ?"
EVENT_BOUNDS: Final = """
    SELECT min((SELECT seq FROM trimmed) + 1, last), last
    FROM (SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS last)
"""
"""AUTOINCREMENT keeps the last number apart from the rows, so none is given twice when rows go."""

GONE: Final = "SELECT job, kind, status, completed FROM tombstones WHERE job = ?"
BY_KEY: Final = "SELECT job, fingerprint FROM keys WHERE key = ?"
MARK: Final = "INSERT INTO marks (name, value) VALUES (?, ?)"
FORGET_MARK: Final = "DELETE FROM marks WHERE name = ?"
MARKS: Final = "SELECT name, value FROM marks"

FORGET_LEASES: Final = "DELETE FROM leases"
SAVE_LEASE: Final = "INSERT INTO leases (id, device, owner, fence, doc) VALUES (?, ?, ?, ?, ?)"
SAVE_FENCE: Final = "INSERT INTO fences (name, fence) VALUES ('device', ?) ON CONFLICT (name) DO UPDATE SET fence = max(fence, excluded.fence)"
LEASES: Final = "SELECT doc FROM leases ORDER BY fence"

FORGET_PEAKS: Final = "DELETE FROM peaks"
SAVE_PEAK: Final = "INSERT INTO peaks (work, seen_bytes, wanted_bytes, memory_bytes) VALUES (?, ?, ?, ?)"
PEAKS: Final = "SELECT work, seen_bytes, wanted_bytes, memory_bytes FROM peaks ORDER BY place"
"""What was learned last comes last."""

LAST_FENCE: Final = "SELECT max(fence) FROM fences"
