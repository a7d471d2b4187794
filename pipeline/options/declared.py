"""What a file of code says of itself, read without importing it, so that checking params.yaml starts no torch.

A task, a network, a reader or a balancer states plain facts as constants at the top of its file (`TITLE = "SegNet"`),
and its options as keyword-only parameters of its class, with a type that pydantic understands and a default.
"""

import ast
import functools
import pathlib
import typing

from pydantic import create_model

from pipeline.options import types

ROOT = pathlib.Path(__file__).resolve().parents[2]


def names(package):
    """Files of a package, `models` or `pipeline.balancers`, in alphabetical order."""
    return sorted(file.stem for file in (ROOT / package.replace(".", "/")).glob("[a-z]*.py"))


@functools.cache
def tree(module):
    """The syntax tree of a module of this project."""
    path = ROOT / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


@functools.cache
def constants(module):
    """{name: value} of the module's own constants whose values are literals."""
    found = {}
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for name, one in zip(target.elts, value.elts, strict=True) if several else [(target, value)]:
                try:
                    found[ast.unparse(name)] = ast.literal_eval(one)
                except ValueError:                # computed, so not a plain fact
                    continue
    return found


def imported(module):
    """{name: module or module.attribute} of the names that a module imports at its top."""
    found = {}
    for node in tree(module).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ancestry(module, name):
    """(module, class) of a class and its bases of this project, nearest first."""
    node = next(node for node in tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    yield module, node
    for base in node.bases:
        words = ast.unparse(base).split(".")
        whole = ".".join([imported(module).get(words[0], f"{module}.{words[0]}"), *words[1:]])
        above, _, name = whole.rpartition(".")
        if above.partition(".")[0] in ("pipeline", "models") and (ROOT / above.partition(".")[0]).is_dir():
            yield from ancestry(above, name)


def attribute(module, name, key):
    """A class's own constant, or its nearest base's."""
    for _, node in ancestry(module, name):
        for line in node.body:
            if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == [key]:
                return ast.literal_eval(line.value)
    raise AttributeError(f"{module}.{name} has no {key}")


@functools.cache
def options(module, name, without=()):
    """The keyword-only parameters of a class as a pydantic model, and those of its bases as far as it hands others on.

    Without an annotation an option has the type of its default.
    """
    found = {}
    for where, node in ancestry(module, name):
        own = [one.args for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        for arguments in own:
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
                found.setdefault(argument.arg, (argument.annotation, default, where))
        if own and not own[0].kwarg:
            break
    fields = {}
    for key, (annotation, default, where) in found.items():
        if key not in without:
            known = vars(types) | vars(typing) | constants(where)
            value = ... if default is None else evaluated(default, known)
            fields[key] = (type(value) if annotation is None else evaluated(annotation, known), value)
    return create_model(name, __base__=types.Section, **fields)


def evaluated(node, known):
    return eval(compile(ast.Expression(node), "<annotation>", "eval"), dict(known))


def functions(module):
    """Names of the functions that a module defines at its top."""
    return {node.name for node in tree(module).body if isinstance(node, ast.FunctionDef)}
