"""`make test-lower-bounds`: pyproject.toml's requirements at their lowest, one a line, as constraints for pip."""

import pathlib
import re
import sys
import tomllib


def lowest(requirement):
    """"dvc>=3.67,<4" -> "dvc==3.67"; extras go, a condition stays."""
    found = re.match(r"([\w.-]+)(?:\[.*?\])?>=([\w.]+)[^;]*(;.*)?", requirement)
    if not found:
        raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound; write {requirement}>=VERSION")
    return f"{found[1]}=={found[2]}{found[3] or ''}"


def constraints(text):
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *(x for extra in project["optional-dependencies"].values() for x in extra)]
    return list(dict.fromkeys(map(lowest, wanted)))


if __name__ == "__main__":
    print(*constraints(pathlib.Path(sys.argv[1]).read_text()), sep="\n")
