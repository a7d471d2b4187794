"""`make table2`, its last words: of a table that was written, the part that a reader came for, on one screen.

    python -m pipeline.show table2         from out/tables/table2.json; at most 100 columns and some 40 lines

A row a method, the metrics by the definition of its paper's code at the chosen epoch, Delta_MTL with its spread; on the
paper's own data its numbers beneath. * marks the best of a column on a network, ' the second best.
"""

import json
import sys
import textwrap

from pipeline.runtime.errors import UserError, run
from pipeline.table import DELTA, OUT, number, title_of
from pipeline.tasks.metrics import METRICS

WIDTH, LINES = 100, 40
DECIDES_NUMBERS = False


def main(name):
    file = OUT / f"{name}.json"
    if not file.exists():
        raise UserError(f"there is no {file}; `make tables` lists the tables, and a table's own word makes it")
    print("\n".join(lines(json.loads(file.read_text()), sys.stdout.isatty())))


def lines(table, colours=False):
    """The screen as lines of text; colours: the best of a column in bold, as terminals take it."""
    chosen = [cell for cell in table["cells"] if (cell["rule"], cell["protocol"]) == (table["selection"],
                                                                               table["definition"])]
    beside = any(cell["paper"] is not None for cell in chosen)
    said = [f"* best, ' second best. {OUT}/{table['table']}.md: the other protocol, selection rules, costs, switches.",
            *table["caption"][:2]]
    whole, short = [[line for sentence in said for line in textwrap.wrap(sentence, WIDTH)],
                    [textwrap.shorten(sentence, WIDTH, placeholder=" ...") for sentence in said]]
    for paper, tail in ((beside, whole), (beside, short), (False, short)):
        if len(found := [*body(table, chosen, paper, colours), *tail]) <= LINES:
            break
    return found


def body(table, chosen, beside, colours):
    """The networks of a table one below the other, in columns of one width."""
    names = list(dict.fromkeys(cell["metric"] for cell in chosen))
    blocks = []
    for model, title in table["models"].items():
        cells = [cell for cell in chosen if cell["model"] == model]
        marks = {name: ranked([cell for cell in cells if cell["metric"] == name]) for name in names}
        rows = []
        for method in dict.fromkeys(cell["method"] for cell in cells):
            own = {cell["metric"]: cell for cell in cells if cell["method"] == method}
            rows.append([own[names[0]]["title"], *((told(own[name]), marks[name].get(method, "")) for name in names),
                         str(own[names[0]]["n"])])
            if beside and any(cell["paper"] is not None for cell in own.values()):
                rows.append(["  paper", *((number(name, own[name]["paper"]), "") for name in names), ""])
        blocks.append((title, rows))
    header = [title_of(name).rsplit(" ", 1) for name in names]
    every = [row for _, rows in blocks for row in rows]
    widths = [max(len(part) for part in (*header[i], *(row[i + 1][0] for row in every))) for i in range(len(names))]
    first = min(max(len(row[0]) for row in every), max(12, WIDTH - sum(widths) - 2 * len(names) - 4))
    found = [f"{table['heading']}: {' and '.join(table['models'].values())}, {table['definition']} protocol"]
    for above in ([title[:-1] for title in header], [title[-1:] for title in header]):
        parts = [" ".join(words).rjust(width) + " " for words, width in zip(above, widths, strict=True)]
        found.append(" ".join(["".ljust(first), *parts, " n" if above[0] == header[0][-1:] else ""]).rstrip())
    for title, rows in blocks:
        found.append(f"-- {title} ".ljust(min(WIDTH, len(found[-1]) + 2), "-"))
        for name, *values, count in rows:
            parts = [bold(text.rjust(width), colours and mark == "*") + (mark or " ")
                     for (text, mark), width in zip(values, widths, strict=True)]
            found.append(" ".join([name[:first].ljust(first), *parts, count.rjust(2)]).rstrip())
    return found


def told(cell):
    """A mean; Delta_MTL with its deviation."""
    text, spread = number(cell["metric"], cell["mean"]), cell["std"] if cell["metric"] == DELTA else None
    return text if spread is None or cell["mean"] is None else f"{text} ± {number('', spread)}"


def ranked(cells):
    """{method: "*" or "'"} of one metric; what is equal has one mark. A column of one row has none."""
    known = {cell["method"]: cell["mean"] * better(cell["metric"]) for cell in cells
             if cell["mean"] is not None and cell["mean"] == cell["mean"]}
    places = sorted(set(known.values()), reverse=True)[:2]
    return {method: "*'"[places.index(value)] for method, value in known.items() if value in places} if len(
        places) > 1 else {}


def better(name):
    return METRICS[name].better if name in METRICS else +1


def bold(text, wanted):
    return f"\033[1m{text}\033[0m" if wanted else text


if __name__ == "__main__":
    run(main, *sys.argv[1:])
