"""What the integration tests stand on: a real PostgreSQL, the daemon under test, a client that speaks raw bytes."""
from harness.pooler import Pooler
from harness.postgres import Postgres, free_port, password_of, wait_until
from harness.wire import Closed, ServerError, Wire

__all__ = ["Closed", "Pooler", "Postgres", "ServerError", "Wire", "free_port", "password_of", "wait_until"]
