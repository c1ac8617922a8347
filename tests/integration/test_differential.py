"""The same messages directly and through pgkeel: short runs of the programs in tests/differential."""
import os
import pathlib
import subprocess
import sys

import pytest

DIRECTORY = pathlib.Path(__file__).resolve().parents[1] / "differential"


def run(program, *args):
    ended = subprocess.run([sys.executable, str(DIRECTORY / program), *args], capture_output=True, text=True, timeout=300,
                           env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


@pytest.mark.parametrize("seed, clients, pool", [(1, 1, 1), (2, 3, 2), (3, 4, 3)])
def test_replies_are_those_of_a_direct_connection(seed, clients, pool):
    run("differential.py", "--seconds", "5", "--seed", str(seed), "--clients", str(clients), "--pool", str(pool))


def test_nobody_gets_what_is_anothers():
    run("leak.py", "--seconds", "6", "--seed", "1", "--clients", "60", "--pool", "3")
