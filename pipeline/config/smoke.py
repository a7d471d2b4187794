"""`make smoke`: every suite at its smallest, on rendered data, in the folder where it is called: does everything run?

    python -m pipeline.config.smoke        rewrites params.yaml and pipeline/suites/*/params.yaml; only ever in a copy
"""

import pathlib

from pipeline.config import params, reading
from pipeline.data import readers
from pipeline.runtime.errors import UserError, run


def main():
    if pathlib.Path(".git").exists():
        raise UserError("this is a clone, whose params.yaml would be overwritten; `make smoke` works in a copy")
    for suite, file in params.files().items():
        tree = small(reading.read(file))
        file.write_text(reading.text(tree))
        print(f"{suite}: protocol smoke")


def small(tree):
    """A suite under the protocol `smoke`: rendered data, one network and few rows of each group, every task."""
    if "protocol" in tree:                      # a search takes it from the suite that it searches
        rendered = [name for name in tree["datasets"] if hasattr(readers.reader(name), "STANDS_FOR")]
        tree |= {"protocol": "smoke", "data": (rendered or [tree["data"]])[0]}
    tree["seeds"] = tree["seeds"][:1]
    for group in params.GROUPS[1:]:
        several = group == "student"            # the table of quirks and a search compare two
        tree[group] |= {"models": tree[group]["models"][:1], "rows": tree[group]["rows"][:1 + several]}
    tree["teacher"]["models"] = list(dict.fromkeys(
        [*tree["teacher"]["models"][:1], *tree["student"]["models"]]))
    return tree


if __name__ == "__main__":
    run(main)
