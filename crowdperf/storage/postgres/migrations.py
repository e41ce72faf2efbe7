"""Runner of `migrations/`: numbered SQL files, applied once, in order, in one transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from crowdperf.primitives.digest import compute_digest
from crowdperf.settings.base import ConfigError
from crowdperf.storage.postgres.driver import Database

MIGRATIONS_FOLDER = Path(__file__).resolve().parents[3] / "migrations"
FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
LOCK_KEY = 0x63726F7764
"""Key of the advisory lock: concurrent runners wait for each other."""
CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    text PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(Struct, frozen=True):
    """One SQL file."""

    version: str
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Return the sha256 of the text."""
        return compute_digest(self.sql.encode())


def list_migrations(folder: Path = MIGRATIONS_FOLDER) -> list[Migration]:
    """List the files in order; raise ConfigError for an odd name or a number that exists twice."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ConfigError(f"migration {path} has an odd name. Remedy: name it like 0002_what_it_does.sql.")
        found.append(Migration(match[1], path.name, path.read_text(encoding="utf-8")))
    versions = [row.version for row in found]
    if len(set(versions)) < len(versions):
        raise ConfigError(f"two migrations in {folder} have one number. Remedy: give each its own.")
    return found


def list_applied(database: Database) -> list[Migration]:
    """List the applied migrations in order; `sql` is empty and `name` holds `<name>:<checksum>`."""
    if not database.run("SELECT to_regclass('schema_migrations')::text")[0][0]:
        return []
    rows = database.run("SELECT version, name || ':' || checksum FROM schema_migrations ORDER BY version")
    return [Migration(version, name, "") for version, name in rows]


def list_pending(database: Database, migrations: Sequence[Migration]) -> list[Migration]:
    """List the migrations to apply; raise ConfigError where the applied ones are not as in the files."""
    known = {row.version: row for row in migrations}
    done = list_applied(database)
    for row in done:
        name, _, checksum = row.name.partition(":")
        if row.version not in known:
            raise ConfigError(
                f"the database has the migration {name}, which this version of crowdperf does not know. "
                "Remedy: run the newer crowdperf that applied it."
            )
        if known[row.version].checksum != checksum:
            raise ConfigError(
                f"migration {name} was changed after it was applied (its checksum is another one). "
                "Remedy: put the file back as it was, and write the change into a new migration."
            )
    newest = done[-1].version if done else ""
    names = {row.version for row in done}
    left = [row for row in migrations if row.version not in names]
    if left and left[0].version < newest:
        raise ConfigError(
            f"migration {left[0].name} comes before {newest}, which is applied. Remedy: give it the next number."
        )
    return left


def migrate(database: Database, migrations: Sequence[Migration]) -> list[Migration]:
    """Apply all pending migrations, or none when one fails; return them.

    Raises:
        ConfigError: see `list_pending`.
        DatabaseUnavailableError, DatabaseRejectedError: nothing was applied.
    """
    database.run("BEGIN")
    try:
        database.run("SET LOCAL statement_timeout = 0")
        database.run("SELECT pg_advisory_xact_lock(%s::bigint)", [LOCK_KEY])
        left = list_pending(database, migrations)
        if left:
            database.run(CREATE_TABLE)
        for row in left:
            database.run(row.sql)
            database.run(
                "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)",
                [row.version, row.name, row.checksum],
            )
        database.run("COMMIT")
    except BaseException:
        # Closing rolls back whatever state the connection is in, also one in which ROLLBACK would fail.
        database.close()
        raise
    return left
