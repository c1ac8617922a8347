"""What a hole in the program would still meet: how it was built, and what its process gave up."""
import os
import pathlib
import pwd
import re
import shutil
import subprocess

import pytest

PR_GET_MDWE = 66


@pytest.fixture
def program(start_pooler):
    pooler = start_pooler(ini="", users="", start=False)
    if pooler.keeps_freed_memory():
        pytest.skip("sanitizers are built without it")
    return pooler.binary


def readelf(*args):
    return subprocess.run(["readelf", "-W", *args], check=True, capture_output=True, text=True).stdout


def segments(program):
    """[(type, flags)]"""
    return re.findall(r"(?m)^ +([A-Z_]+) +0x\w+ 0x\w+ 0x\w+ 0x\w+ 0x\w+ ([R ][W ][E ]) ", readelf("-l", program))


def test_program_is_position_independent(program):
    assert re.search(r"Type: +DYN", readelf("-h", program))
    assert re.search(r"\(FLAGS_1\).*\bPIE\b", readelf("-d", program))
    assert "TEXTREL" not in readelf("-d", program)


def test_tables_of_addresses_are_read_only_once_it_runs(program):
    assert "GNU_RELRO" in {kind for kind, _ in segments(program)}
    assert re.search(r"\(FLAGS(_1)?\).*\b(BIND_)?NOW\b", readelf("-d", program))


def test_no_segment_is_writable_and_executable(program):
    found = segments(program)
    assert dict(found)["GNU_STACK"] == "RW "
    assert {flags for kind, flags in found if kind == "LOAD"} <= {"R  ", "RW ", "R E"}
    assert any(kind == "LOAD" and flags == "R E" for kind, flags in found)


def test_stacks_and_copies_are_checked(program):
    imported = set(re.findall(r"UND (\w+)@", readelf("--dyn-syms", program)))
    assert "__stack_chk_fail" in imported
    assert {"__snprintf_chk", "__vsnprintf_chk", "__read_chk"} & imported
    # Each call of these is a checked one, whatever the compiler knew.
    assert not {"sprintf", "fprintf", "strcpy", "strcat", "gets"} & imported


def test_program_names_no_folder_of_libraries(program):
    assert not re.search(r"\((RPATH|RUNPATH)\)", readelf("-d", program))


def status_of(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def test_process_has_no_memory_to_write_and_run(pooler):
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
        maps = pathlib.Path(f"/proc/{pooler.pid}/maps").read_text(encoding="utf-8")
    if os.geteuid() != 0 and not maps:
        pytest.skip("only root sees it")
    rights = {line.split()[1] for line in maps.splitlines()}
    assert "r-xp" in rights
    assert not [line for line in maps.splitlines() if re.match(r"\S+ .w x?|\S+ .wx", line)]


def test_process_gains_no_rights_by_starting_programs(pooler):
    for task in pathlib.Path(f"/proc/{pooler.pid}/task").iterdir():
        assert status_of(task.name)["NoNewPrivs"] == "1"


def test_memory_that_was_writable_never_becomes_executable(pooler):
    """Asked from inside, because /proc does not tell."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 6) or shutil.which("gdb") is None or os.geteuid() != 0:
        pytest.skip("needs Linux 6.6, gdb and root")
    told = subprocess.run(
        ["gdb", "-p", str(pooler.pid), "-batch", "-nx", "-iex", "set debuginfod enabled off", "-ex", f"print ((int(*)())prctl)({PR_GET_MDWE},0,0,0,0)"],
        capture_output=True, text=True, check=False, timeout=60)
    assert "$1 = 3" in told.stdout, told.stdout + told.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_rights_of_root_are_given_up_for_good(postgres, start_pooler):
    user = pwd.getpwnam("nobody")
    pooler = start_pooler(env={"DATABASE_URL": postgres.url(), "PGKEEL_USER": "nobody"}, start=False)
    pooler.dir.chmod(0o777)
    pooler.start()
    pooler.wait_for_log("ready")
    for task in pathlib.Path(f"/proc/{pooler.pid}/task").iterdir():
        status = status_of(task.name)
        assert status["Uid"].split() == [str(user.pw_uid)] * 4
        assert status["Gid"].split() == [str(user.pw_gid)] * 4
        assert set(status["Groups"].split()) <= {str(gid) for gid in os.getgrouplist("nobody", user.pw_gid)}
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    with pooler.wire() as wire:
        assert wire.value("SELECT 1") == "1"
