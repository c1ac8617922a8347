"""An application as they are: one connection for all its life, and no word about what happens when it breaks."""
import datetime
import os
import pathlib
import time

import psycopg

# Everything but the password comes from PGHOST, PGPORT, PGUSER and PGDATABASE.
password = pathlib.Path(os.environ["PGPASSWORD_FILE"]).read_text(encoding="utf-8").strip()
print(f"{datetime.datetime.now():%H:%M:%S} connecting", flush=True)
with psycopg.connect(password=password, autocommit=True) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS visit (id bigserial PRIMARY KEY, at timestamptz DEFAULT now())")
    while True:
        began = time.monotonic()
        row = connection.execute("INSERT INTO visit DEFAULT VALUES RETURNING id").fetchone()
        took_ms = (time.monotonic() - began) * 1000
        print(f"{datetime.datetime.now():%H:%M:%S} visit {row[0]}, {took_ms:.0f} ms", flush=True)
        time.sleep(1)
