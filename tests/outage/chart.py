#!/usr/bin/python3
"""Draws docs/outage.svg from the figures of outage.py --json: by fault, how many connections each proxy's clients lost and
how long a request of theirs stood still.

    make outage OUTAGE_ARGS='--json figures.json' && tests/outage/chart.py figures.json docs/outage.svg

Bars of losses are logarithmic, because none against thousands is the point; those of time are not.
"""
import json
import math
import pathlib
import sys
from xml.sax.saxutils import escape

NAMES = {"pgkeel": "pgkeel", "pgbouncer": "PgBouncer"}
GROUPS = (
    ("All server connections terminated", {
        1: "while clients are idle", 2: "each second, full load", 3: "each second, a query every 20 ms",
        4: "each second, updates of one row", 5: "each second, transactions"}),
    ("PostgreSQL itself", {
        6: "restart -m fast", 7: "restart -m immediate", 8: "kill -9, 1 s down", 9: "stopped for 5 s"}),
)
WIDTH, TOP, ROW, BAR, HEAD = 860, 84, 44, 13, 30
LOST, STALL = (290, 200), (640, 155)  # left edge and room for the longest bar
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2933 }
.title { font-size: 16px; font-weight: 600 } .head { font-weight: 600 }
.value { font-size: 12px } .note { font-size: 11.5px; fill: #5d6975 }
.pgkeel { fill: #1a7f5a } .pgbouncer { fill: #c2603a } .line { stroke: #d5dbe1 } .away { stroke: #1f2933; stroke-width: 2 }
.ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e9ee } .note { fill: #a3afba } .line { stroke: #3a444e } .away { stroke: #e4e9ee }
  .ground { fill: #14191e } .pgkeel { fill: #3fb98a } .pgbouncer { fill: #e08a63 }
}"""


def text(x, y, words, kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(words)}</text>'


def bar(x, y, length, proxy):
    return f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" class="{proxy}"/>'


def logarithmic(value, most, room):
    return room * math.log1p(value) / math.log1p(most)


class Chart:
    def __init__(self, figures):
        self.figures = figures
        self.rows = {}
        for row in figures["rows"]:
            self.rows.setdefault(row["row"], {})[row["proxy"]] = row
        self.proxies = [name for name in NAMES if any(name in row for row in self.rows.values())]
        self.most_lost = max([row["lost_count"] for row in figures["rows"]] + [1])
        self.longest = max([row["stall"] for row in figures["rows"]] + [0.1])
        self.parts, self.y = [], TOP

    def add(self, *parts):
        self.parts.extend(parts)

    def header(self):
        self.add(text(20, 30, f"{self.figures['clients']} clients without retry code, while PostgreSQL fails", "title"))
        for place, proxy in enumerate(self.proxies):
            x = STALL[0] + place * 80 - 20
            self.add(f'<rect x="{x}" y="18" width="13" height="13" rx="2" class="{proxy}"/>',
                     text(x + 19, 29, NAMES[proxy]))
        self.add(text(LOST[0], TOP - 16, "Connections lost", "head"),
                 text(STALL[0], TOP - 16, "Longest stall of a request", "head"))

    def group(self, title, labels):
        labels = {number: label for number, label in labels.items() if number in self.rows}
        if not labels:
            return
        self.add(f'<line class="line" x1="20" x2="{WIDTH - 20}" y1="{self.y - 6}" y2="{self.y - 6}"/>',
                 text(20, self.y + 14, title, "head"))
        self.y += HEAD
        for number, label in labels.items():
            self.add(text(20, self.y + BAR + 5, label))
            for place, proxy in enumerate(name for name in self.proxies if name in self.rows[number]):
                self.pair(self.rows[number][proxy], self.y + place * (BAR + 3))
            self.away(self.rows[number])
            self.y += ROW

    def pair(self, row, y):
        """The two bars of one proxy."""
        length = logarithmic(row["lost_count"], self.most_lost, LOST[1])
        self.add(bar(LOST[0], y, length, row["proxy"]))
        words = str(row["lost_count"])
        self.add(text(LOST[0] + length + 6, y + BAR - 2.5, words, "value"))
        if row["error_count"]:
            codes = " and ".join(sorted({code.partition("@")[0] for code in row["errors"]}))
            self.add(text(LOST[0] + length + 12 + 8 * len(words), y + BAR - 2.5,
                          f"({row['error_count']} × ERROR {codes}, connection kept)", "note"))
        length = STALL[1] * row["stall"] / self.longest
        self.add(bar(STALL[0], y, length, row["proxy"]),
                 text(STALL[0] + length + 6, y + BAR - 2.5, f"{row['stall']:.1f} s", "value"))

    def away(self, entries):
        """A mark where the server was back again: no proxy can be faster than that."""
        for place, proxy in enumerate(name for name in self.proxies if name in entries):
            if entries[proxy]["downtime"]:
                x = STALL[0] + STALL[1] * entries[proxy]["downtime"] / self.longest
                y = self.y + place * (BAR + 3)
                self.add(f'<line class="away" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 1}" y2="{y + BAR + 1}"/>')

    def footer(self):
        figures = self.figures
        versions = ", ".join(f"{NAMES[name]} {figures['versions'][name]}" for name in self.proxies if name != "pgkeel")
        self.add(text(20, self.y + 12, "Upright mark: PostgreSQL is back. Bars of losses are logarithmic. A client that lost "
                      "its connection connects again at once.", "note"),
                 text(20, self.y + 29, f"{figures['client']}, pool of {figures['pool_size']}, PostgreSQL "
                      f"{figures['postgresql']}{', ' + versions if versions else ''}. Made by make outage.", "note"))

    def draw(self):
        self.header()
        for title, labels in GROUPS:
            self.group(title, labels)
        self.footer()
        height = self.y + 44
        head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
                f'height="{height}" role="img" aria-label="Connections lost and longest stall by fault and proxy">',
                f"<style>{STYLE}</style>", f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>']
        return "\n".join(head + self.parts) + "\n</svg>\n"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    source, target = map(pathlib.Path, sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(Chart(json.loads(source.read_text(encoding="utf-8"))).draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
