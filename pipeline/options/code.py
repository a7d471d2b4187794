"""The code that a run reaches, and one digest of it: what decides that an edit reruns this run and not its neighbour.

Reached is the closure of imports from the verb and from what the row names: its network, objective, balancer, tasks,
reader. Those are the modules that are imported by name at run time; beside them the kernels' dispatch reaches every
implementation of the operations that a module asks it for. A module that states `DECIDES_NUMBERS = False` is left out,
and what it imports with it; so is a package that states `PACKAGE_DECIDES_NUMBERS = False` (messages, progress, where
files lie).

Of a file counts what is neither comment nor docstring nor blank line, read off the text itself: neither `ast.dump` nor
`ast.unparse` gives the same on every Python. Files that are no Python (YAML, C++) beside the code count by content.
"""

import ast
import functools
import hashlib
import io
import pathlib
import sys
import tokenize

from pipeline.options.declared import ROOT, constants, tree

PACKAGES = ("pipeline", "models", "kernels")


def digest(modules):
    """Hex digest of the code that these modules reach."""
    return of_all(tuple(sorted(set(modules))))


@functools.cache
def of_all(modules):
    found = hashlib.sha256()
    for module in sorted(reached(modules)):
        found.update(f"{module}\n{text(module)}\n".encode())
    return found.hexdigest()[:16]


def reached(modules):
    """Names of the modules that these import, themselves too, at any depth."""
    seen, todo = set(), list(modules)
    while todo:
        module = todo.pop()
        if module not in seen and decides_numbers(module):
            seen.add(module)
            todo += imports(module)
    return seen


def path(module):
    """The file of a module of this project, None of any other."""
    place = ROOT / module.replace(".", "/")
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if module.partition(".")[0] in PACKAGES and file.is_file():
            return file
    return None


def decides_numbers(module):
    words = module.split(".")
    packages = (".".join(words[:n]) for n in range(1, len(words) + 1))
    return constants(module).get("DECIDES_NUMBERS", True) and all(
        constants(package).get("PACKAGE_DECIDES_NUMBERS", True) for package in packages)


@functools.cache
def nodes(module):
    return list(ast.walk(tree(module)))


@functools.cache
def imports(module):
    """Modules of this project that one imports, the packages on their way too, and kernels that it asks for."""
    found = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    asked = {node.attr for node in nodes(module) if isinstance(node, ast.Attribute)} | {
        name.rpartition(".")[2] for name in found if name.startswith("kernels.")}
    if "kernels.dispatch" in found or "kernels" in found:
        found |= {f"kernels.{way}.{operation}" for way in ("cpu", "gpu", "native") for operation in asked
                  if not operation.startswith("_")} | {"kernels.reference"}
    found |= {name.rpartition(".")[0] for name in (*found, module)}
    return {name for name in found if path(name)} - {module}


@functools.cache
def text(module):
    """What counts of a module's source, and of the files that are no Python beside it in its folder."""
    file = path(module)
    beside = ""
    if file.name == "__init__.py":
        beside = "".join(f"{other.name} {hashlib.sha256(other.read_bytes()).hexdigest()}\n" for other in sorted(
            file.parent.iterdir()) if other.is_file() and other.suffix not in (".py", ".md", ".pyc"))
    return counted(file.read_text(), nodes(module)) + beside


def counted(source, parsed):
    """Source without comments, docstrings, blank lines and space at the ends of lines; parsed: its nodes."""
    lines, inside = source.split("\n"), set()
    for node in parsed:                          # lines within a text are part of it, blank or not
        if isinstance(node, ast.Constant | ast.JoinedStr) and isinstance(getattr(node, "value", ""), str):
            inside |= set(range(node.lineno, node.end_lineno))
    # from the end to the front, so that places stay; columns of `ast` are bytes, those of `tokenize` characters
    cuts = [(token.start, token.end) for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type == tokenize.COMMENT]
    for node in docstrings(parsed):
        begin = len(lines[node.lineno - 1].encode()[:node.col_offset].decode())
        end = len(lines[node.end_lineno - 1].encode()[:node.end_col_offset].decode())
        cuts.append(((node.lineno, begin), (node.end_lineno, end)))
        inside -= set(range(node.lineno, node.end_lineno))
    for (first, begin), (last, end) in sorted(cuts, reverse=True):
        lines[first - 1:last] = [lines[first - 1][:begin] + lines[last - 1][end:]] + [""] * (last - first)
    return "\n".join(line if i in inside else line.rstrip() for i, line in enumerate(lines, 1)
                     if i in inside or line.strip())


def docstrings(parsed):
    for node in parsed:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and (
                    isinstance(first.value.value, str)):
                yield first


def main(file, *modules):
    """Write the digest of some modules' code, for a stage that has no row."""
    pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(file).write_text(f"code: {digest(modules)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
