"""The linter against files that break its rules one by one."""
import pathlib
import subprocess
import sys

import pytest

LINT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "lint"


def lint(root):
    result = subprocess.run([sys.executable, LINT, "--root", root], capture_output=True, text=True)
    return result.returncode, result.stdout


def complaints(tmp_path, name, text):
    path = tmp_path / "src" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    status, output = lint(tmp_path)
    assert (status == 0) == ("nothing to complain about" in output)
    return output


GOOD = """#include <stdio.h>

static const int table[] = {
%s};

/* Words like if (x) { { { { in comments and "{ { {" in strings are no code. */
static int
walk(int a, int b, int c, int d, int (*fn)(int, int))
{
    for (int i = 0; i < a; i++) {
        switch (i) {
        case 1: {
            if (b) {
                printf("{{{{ %%d", c);
            }
            break;
        }
        default:
            return fn(c, d);
        }
    }
    return table[0] + (int)sizeof((struct { int x; }){1});
}
"""


def test_good_file_passes(tmp_path):
    assert "nothing to complain about" in complaints(tmp_path, "base/a.c", GOOD % ("    1,\n" * 100))


def function(lines):
    return "int a(void);\n\nint\na(void)\n{\n%s}\n" % ("    a();\n" * (lines - 3))


def test_function_of_60_lines_passes(tmp_path):
    assert "nothing" in complaints(tmp_path, "base/a.c", function(60))


def test_table_inside_a_function_does_not_count(tmp_path):
    text = "int\na(void)\n{\n    static const int t[] = {\n%s    };\n    return t[0];\n}\n" % ("        1,\n" * 90)
    assert "nothing" in complaints(tmp_path, "base/a.c", text)


def nested(levels):
    opening = "".join("    " * (i + 1) + "if (x) {\n" for i in range(levels))
    closing = "".join("    " * (i + 1) + "}\n" for i in reversed(range(levels)))
    return "static void\na(int x)\n{\n" + opening + closing + "}\n"


def test_three_levels_pass(tmp_path):
    assert "nothing" in complaints(tmp_path, "base/a.c", nested(3))


BAD = [
    ("base/a.c", function(61), "src/base/a.c:4: a() has 61 lines, at most 60"),
    ("base/a.c", "int a;\n" * 601, "file of 601 lines, at most 600"),
    ("base/a.c", "int\nf(int a, int b, int c, int d, int e, int g)\n{\n}\n", "f() has 6 parameters"),
    ("base/a.c", nested(4), "src/base/a.c:7: a() nests 4 levels, at most 3"),
    ("base/a.c", "int a; /* " + "x" * 100 + " */\n", "columns, at most 100"),
    ("base/a.c", "\tint a;\n", "a.c:1: tab"),
    ("base/a.c", "int a; \n", "a.c:1: trailing blank"),
    ("base/a.c", "int a;", "no newline at the end"),
    ("base/a.c", "/* %s: later */\n" % ("TO" + "DO"), "open an issue instead"),
    ("base/a.h", "int a;\n", "header without #pragma once"),
    ("base/a.h", "#pragma once\nstruct a { uint8_t b; };\n", "does not compile alone"),
    ("wire/a.c", '#include "net/loop.h"\n', "layer wire includes net/loop.h; net is to the right of it"),
    ("wire/a.c", '#include "a.h"\n', "write it from src/ on"),
    ("other/a.c", "int a;\n", "src/other is not a layer"),
    ("client/a.c", "#include <libpq-fe.h>\n", "<libpq-fe.h> may be included only in pool/dial.c"),
    ("pool/pool.c", "#include <event2/event.h>\n", "<event2/event.h> may be included only in net/loop.c"),
    ("wire/a.c", "#include <openssl/evp.h>\n", "<openssl/evp.h> may be included only in"),
    ("net/listen.c", "#include <pthread.h>\n", "<pthread.h> may be included only in"),
    ("base/a.c", "#include <glib.h>\n", "<glib.h> is of no library"),
]


@pytest.mark.parametrize("name, text, complaint", BAD, ids=[bad[2][-40:] for bad in BAD])
def test_bad_file_is_complained_about(tmp_path, name, text, complaint):
    assert complaint in complaints(tmp_path, name, text)


def test_own_header_comes_first(tmp_path):
    complaints(tmp_path, "base/a.h", "#pragma once\n")
    output = complaints(tmp_path, "base/a.c", '#include <stdio.h>\n#include "base/a.h"\n')
    assert 'before its own header "base/a.h"' in output


def test_only_one_file_reads_ini(tmp_path):
    assert "nothing" in complaints(tmp_path, "conf/a.c", "#include <ini.h>\n")
    assert "only one file" in complaints(tmp_path, "conf/b.c", "#include <ini.h>\n")
