"""What the documents say is what the sources say: log lines, SQLSTATEs, numbers of the profiles, links."""
import configparser
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
STRING = r'"((?:[^"\\\n]|\\.)*)"'


@functools.cache
def sources():
    return {path: path.read_text() for path in sorted((ROOT / "src").rglob("*.[ch]"))}


def arguments(text, start):
    """What stands between the parenthesis before start and its partner."""
    depth, at = 1, start
    while depth:
        token = re.compile(rf"{STRING}|'(?:\\.|.)'|[()]|.", re.S).match(text, at)
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        at = token.end()
    return text[start:at - 1]


def as_documented(call):
    """The format of a call, with … for what differs; PRId64 and the like stand outside of the quotes."""
    call = re.sub(r'"\s*PRI\w+\s*"', "d", call)
    pieces = re.search(rf"{STRING}(?:\s*(?:PGKEEL_VERSION\s*)?{STRING})*", call)[0]
    text = "".join(re.findall(STRING, pieces)).replace('\\"', '"')
    return re.sub(r"…+", "…", re.sub(r"%%|%[-+ #0]*[\d.*]*[lzh]*[a-zA-Z]?", "…", text))


def lines_of(text):
    """(level, line) for each call that logs."""
    for call in re.finditer(r"\b(log_(?:error|warn|info|write)|(?:pool|client)_log)\(", text):
        inside = arguments(text, call.end())
        if '"' not in inside:
            continue
        levels = re.findall(r"LEVEL_(\w+)", inside) or [call[1].removeprefix("log_").upper()]
        yield levels, as_documented(inside)


def logged():
    return {line: levels for text in sources().values() for levels, line in lines_of(text)}


def reasons():
    """Sentences of fails, which the log shows as they are."""
    for text in sources().values():
        for call in re.finditer(r'\bfail_set\([^"]*"\w{5}",', text):
            inside = arguments(text, call.end())
            if '"' in inside:
                yield as_documented(inside)


def documented():
    text = (ROOT / "docs/troubleshooting.md").read_text()
    return re.findall(r"(?m)^\| `([^`]+)` \|", text)


def rows_of(text):
    return [re.split(r" \| ", line.strip("| \n")) for line in text.splitlines() if line.startswith("| `")]


def test_the_reader_of_formats_sees_through_macros_and_conversions():
    code = 'log_warn("a \\"%s\\" (%" PRIu64 "): %.1fs, "\n "100%%" , x("y)"));'
    assert list(lines_of(code)) == [(["WARN"], 'a "…" (…): …s, 100…')]


def test_documented_log_lines_are_those_of_the_program():
    known = set(logged()) | set(reasons())
    assert len(documented()) > 30
    assert [line for line in documented() if line not in known] == []


def test_each_warning_of_pools_and_clients_is_documented():
    said = set(documented())
    undocumented = [line for path, text in sources().items() if path.parts[-2] in ("pool", "client")
                    for levels, line in lines_of(text)
                    if {"WARN", "ERROR"} & set(levels) and line not in said and line != "…"]
    assert undocumented == []


def test_each_sqlstate_of_the_program_is_documented():
    states = {state for text in sources().values() for state in re.findall(r'"([0-9X][0-9A-Z]{4})"', text)}
    assert {"08007", "40001", "57P03", "53300", "57P01"} <= states
    text = (ROOT / "docs/outages.md").read_text()
    assert sorted(state for state in states if f"`{state}`" not in text) == []


@pytest.mark.parametrize("name", ["docker", "cloud"])
def test_profiles_explain_the_numbers_that_are_in_them(name):
    text = (ROOT / "docs/profiles.md").read_text()
    part = next(part for part in text.split("\n## ") if f"etc/{name}.ini" in part.splitlines()[0])
    reader = configparser.ConfigParser(inline_comment_prefixes=None, interpolation=None, delimiters="=")
    reader.read_string((ROOT / f"etc/{name}.ini").read_text())
    line = reader["databases"]["*"]
    explained = {row[0].strip("`"): row[1] for row in rows_of(part)}
    for key, value in explained.items():
        assert reader["pgkeel"].get(key) == value or re.search(rf"\b{key}={value}\b", line), key
    shown = set(reader["pgkeel"]) | set(re.findall(r"(\w+)=", line))
    plain = {"auth_type", "auth_file", "host", "port", "options", "unix_socket_dir", "tcp_keepalive", "http_listen",
             "pool_size", "listen_addr"}
    assert shown - plain - set(explained) == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name if path.parent == ROOT else f"docs/{path.name}")
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_documents_name_keys_that_exist():
    keys = set(re.findall(r"(?m)^SETTING\((\w+),", (ROOT / "src/conf/settings.def").read_text()))
    told = {key for path in DOCUMENTS for key in re.findall(r"`([a-z]+(?:_[a-z0-9]+)+) =", path.read_text())}
    others = {"log_format", "password_command"}
    assert sorted(told - keys - others - set(re.findall(r"KNOWN\((\w+),", (ROOT / "src/conf/known.def").read_text()))
                  - {"prepare_threshold", "default_query_exec_mode", "statement_cache_size"}) == []


def test_manual_page_names_what_databases_and_users_may_have():
    page = sources()[ROOT / "src/conf/manual.c"]
    for name, table in (("database", "pool_keys"), ("database", "text_keys"), ("lookup", "user_keys")):
        rows = re.search(rf"{table}\[\] = \{{(.*?)\n\}};", sources()[ROOT / f"src/conf/{name}.c"], re.S)[1]
        words = re.findall(r'\{"(\w+)"', rows)
        assert words and [word for word in words if not re.search(rf"\b{word}\b", page)] == []
