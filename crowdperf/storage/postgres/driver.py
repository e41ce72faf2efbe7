"""PostgreSQL through the installed driver: psycopg 3, else psycopg2, else asyncpg. One statement at a time.

Statements use `%s`. Lists become arrays; write their type into the statement (`%s::text[]`).
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

from crowdperf.primitives.redaction import redact_dsn
from crowdperf.settings.base import ConfigError

DRIVERS = ("psycopg", "psycopg2", "asyncpg")
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30
NETWORK_TIMEOUT_MS = 15_000
"""A connection without an answer for so long is closed."""
TRANSIENT_SQLSTATE_CLASSES = ("08", "25", "40", "53", "55", "57", "58", "XX")
"""Transient classes of SQLSTATE: connection, transaction, resources, operator, system."""
Row = tuple[Any, ...]


class DatabaseUnavailableError(Exception):
    """A transient error: back off, reconnect and repeat."""


class DatabaseRejectedError(Exception):
    """A permanent error of the statement or its data. `sqlstate` is the SQLSTATE."""

    def __init__(self, text: str, sqlstate: str = "") -> None:
        super().__init__(text)
        self.sqlstate = sqlstate

    @property
    def is_schema_error(self) -> bool:
        """Return whether a table or column is missing."""
        return self.sqlstate.startswith("42")


class Database(Protocol):
    """One connection in autocommit mode; transactions are BEGIN and COMMIT."""

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run a statement (several, without parameters) and return its rows.

        Raises:
            DatabaseUnavailableError: the outcome is unknown.
            DatabaseRejectedError: the statement had no effect.
        """

    def close(self) -> None:
        """Close the connection. A second call does nothing."""


def list_drivers() -> list[str]:
    """List the installed drivers, the preferred one first."""
    return [name for name in DRIVERS if _import_or_none(name) is not None]


def connect(dsn: str, driver: str | None = None) -> Database:
    """Open a connection.

    Raises:
        ConfigError: no driver is installed.
        DatabaseUnavailableError: the server does not answer, or refuses the login.
    """
    found = driver or next(iter(list_drivers()), None)
    if found is None:
        raise ConfigError(
            "postgres.dsn is set and no driver for PostgreSQL is installed. Remedy: pip install 'psycopg[binary]' into "
            ".venv (psycopg2 or asyncpg do as well)."
        )
    module = importlib.import_module(found)
    return _Asyncpg(module, dsn) if found == "asyncpg" else _Libpq(module, dsn)


def _import_or_none(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _translate_error(error: BaseException, sqlstate: str | None, dsn: str) -> Exception:
    """Convert a driver's error to one of this module, in one line and without secrets."""
    text = " ".join(redact_dsn(str(error), dsn).split()) or type(error).__name__
    if sqlstate is not None and not sqlstate.startswith(TRANSIENT_SQLSTATE_CLASSES):
        return DatabaseRejectedError(text, sqlstate)
    return DatabaseUnavailableError(text)


class _Libpq:
    """psycopg 3 and psycopg2, which share this part of their interface."""

    def __init__(self, module: ModuleType, dsn: str) -> None:
        self._module = module
        self._dsn = dsn
        try:
            self._connection = module.connect(
                dsn,
                connect_timeout=CONNECT_TIMEOUT_S,
                keepalives_idle=10,
                tcp_user_timeout=NETWORK_TIMEOUT_MS,
                application_name="crowdperf",
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_S}s -c timezone=UTC",
            )
            self._connection.autocommit = True
        except module.Error as error:
            raise DatabaseUnavailableError(str(_translate_error(error, None, dsn))) from None

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, tuple(parameters) if parameters else None)
                return list(cursor.fetchall()) if cursor.description else []
        except self._module.Error as error:
            state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
            if state is None and isinstance(error, self._module.DataError):
                state = "22000"
            raise _translate_error(error, state, self._dsn) from None
        except ValueError as error:
            # A text that PostgreSQL cannot hold (a NUL, half a surrogate): the driver says so itself.
            raise _translate_error(error, "22000", self._dsn) from None

    def close(self) -> None:
        self._connection.close()


class _Asyncpg:
    """asyncpg with a private event loop."""

    def __init__(self, module: ModuleType, dsn: str) -> None:
        self._module = module
        self._dsn = dsn
        self._loop = asyncio.new_event_loop()
        settings = {"application_name": "crowdperf", "statement_timeout": f"{STATEMENT_TIMEOUT_S}s", "timezone": "UTC"}
        try:
            self._connection = self._loop.run_until_complete(
                module.connect(
                    dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=STATEMENT_TIMEOUT_S + 5, server_settings=settings
                )
            )
        except (OSError, asyncio.TimeoutError, module.PostgresError, module.InterfaceError, ValueError) as error:
            self._loop.close()
            raise DatabaseUnavailableError(str(_translate_error(error, None, dsn))) from None

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._loop.run_until_complete(self._run(statement, parameters))
        except self._module.PostgresError as error:
            raise _translate_error(error, error.sqlstate, self._dsn) from None
        except ValueError as error:
            # asyncpg.DataError is one: a value that does not fit its type.
            raise _translate_error(error, "22000", self._dsn) from None
        except (OSError, asyncio.TimeoutError, self._module.InterfaceError) as error:
            raise _translate_error(error, None, self._dsn) from None

    async def _run(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        if not parameters:
            # The simple protocol: it takes several statements, and returns no rows.
            if not statement.lstrip().upper().startswith(("SELECT", "WITH")):
                await self._connection.execute(statement)
                return []
            return [tuple(row) for row in await self._connection.fetch(statement)]
        number = itertools.count(1)
        numbered = re.sub("%s", lambda _: f"${next(number)}", statement)
        return [tuple(row) for row in await self._connection.fetch(numbered, *parameters)]

    def close(self) -> None:
        if self._loop.is_closed():
            return
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._connection.close(), CONNECT_TIMEOUT_S))
        except (OSError, asyncio.TimeoutError, self._module.PostgresError, self._module.InterfaceError):
            self._connection.terminate()
        self._loop.close()
