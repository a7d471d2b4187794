"""`make params`: check every suite's params.yaml, what they have in common, and say what is in force."""

from pipeline.config import params, targets
from pipeline.runtime import locks
from pipeline.runtime.errors import run


def main():
    locks.mend()
    suites = {name: params.load(name) for name in params.files()}
    params.check_copies()
    targets.tables()
    for name, chosen in suites.items():
        said = ", ".join(f"{len(group.models) * len(group.rows)} {group_name}"
                         for group_name, group in chosen.groups().items())
        print(f"{name:16} {chosen.protocol}: {chosen.data}, seeds {chosen.seeds}; {said}")


run(main)
