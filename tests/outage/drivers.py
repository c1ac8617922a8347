"""One connection of an application through each of the drivers, none of which is told to retry anything.

`open()` connects, `run(statements)` sends pairs of (text with %s, arguments) and returns the first value of each,
`is_open()` says whether the connection outlived an error. A driver sends `batch` statements at a time.
"""
import asyncio
import itertools
import logging

FATAL = ("FATAL", "PANIC")


class Psycopg2:
    """libpq's simple protocol, arguments merged into the text by the driver."""

    batch = 1

    def __init__(self, login, protocol):
        import psycopg2
        assert protocol == "simple", "psycopg2 speaks the simple protocol only"
        self.library, self.failures, self.login = psycopg2, psycopg2.Error, login
        self.connection = self.cursor = None

    def open(self):
        self.connection = self.library.connect(**self.login)
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()

    def run(self, statements):
        values = []
        for sql, arguments in statements:
            self.cursor.execute(sql, arguments or None)
            values.append(self.cursor.fetchone()[0] if self.cursor.description else None)
        return values

    def is_open(self):
        return self.connection.closed == 0

    @staticmethod
    def code(error):
        return error.pgcode

    @staticmethod
    def is_fatal(error):
        return error.diag.severity in FATAL

    def close(self):
        if self.connection is not None:
            self.connection.close()


class Psycopg3(Psycopg2):
    """Simple: a client-side cursor. Extended: Parse, Bind and Execute of the unnamed statement. Prepared: a named one."""

    def __init__(self, login, protocol):
        import psycopg
        self.library, self.failures, self.login = psycopg, psycopg.Error, login
        self.protocol, self.connection, self.cursor = protocol, None, None
        # It warns of each lost pipeline, which is counted here anyway.
        logging.getLogger("psycopg").setLevel(logging.ERROR)

    def open(self):
        self.connection = self.library.connect(
            **self.login, autocommit=True, prepare_threshold=0 if self.protocol == "prepared" else None)
        kind = self.library.ClientCursor if self.protocol == "simple" else self.library.Cursor
        self.cursor = kind(self.connection)

    def is_open(self):
        return not self.connection.closed

    @staticmethod
    def code(error):
        return error.sqlstate

    @staticmethod
    def is_fatal(error):
        return error.diag.severity_nonlocalized in FATAL


class Pipeline(Psycopg3):
    """psycopg 3 in pipeline mode: all statements of a request travel together, one Sync behind them."""

    batch = 5

    def run(self, statements):
        with self.connection.pipeline():
            cursors = [self.connection.execute(sql, arguments or None) for sql, arguments in statements]
        return [cursor.fetchone()[0] if cursor.description else None for cursor in cursors]

    def is_open(self):
        # One that cannot leave the pipeline any more is of no use; the driver does not always call it closed at once.
        return super().is_open() and self.connection.pgconn.pipeline_status == self.library.pq.PipelineStatus.OFF


class Asyncpg:
    """A loop of its own, so that the same clients can use it. Extended: Parse, Describe, Flush; then Bind, Execute, Sync."""

    batch = 1

    def __init__(self, login, protocol):
        import asyncpg
        self.library, self.login, self.protocol = asyncpg, login, protocol
        self.failures = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError,
                         asyncio.TimeoutError)
        self.loop, self.connection = asyncio.new_event_loop(), None

    def open(self):
        login = {**self.login, "database": self.login["dbname"], "timeout": self.login["connect_timeout"]}
        del login["dbname"], login["connect_timeout"]
        # Statements with names are another matter than outages.
        cache = 100 if self.protocol == "prepared" else 0
        self.connection = self.loop.run_until_complete(
            self.library.connect(**login, ssl=False, statement_cache_size=cache))

    def run(self, statements):
        return [self.loop.run_until_complete(self._one(*statement)) for statement in statements]

    async def _one(self, sql, arguments):
        if self.protocol == "simple" or not arguments:
            # No values come back from a simple query.
            return await self.connection.execute(sql % tuple(arguments)) and None
        numbers = itertools.count(1)
        while "%s" in sql:
            sql = sql.replace("%s", f"${next(numbers)}", 1)
        return await self.connection.fetchval(sql, *arguments)

    def is_open(self):
        return not self.connection.is_closed()

    def code(self, error):
        if isinstance(error, self.library.InternalClientError):
            return "out of step"
        # The driver has SQLSTATEs for its own exceptions too; those never crossed the wire.
        is_own = isinstance(error, (self.library.InterfaceError, self.library.PostgresConnectionError))
        return None if is_own and getattr(error, "severity", None) is None else getattr(error, "sqlstate", None)

    def is_fatal(self, error):
        # Answers that the driver did not expect leave it of no use, though its connection lives.
        return isinstance(error, self.library.InternalClientError) or getattr(error, "severity", None) in FATAL

    def close(self):
        if self.connection is not None:
            self.connection.terminate()
        self.loop.close()


DRIVERS = {"psycopg2": Psycopg2, "psycopg3": Psycopg3, "pipeline": Pipeline, "asyncpg": Asyncpg}
