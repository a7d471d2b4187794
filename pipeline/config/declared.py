"""What a file of code says of itself, read without importing it, so that checking params.yaml starts no torch.

A task, a network, a reader or a balancer states plain facts as constants at the top of its file (`TITLE = "SegNet"`),
and its options as keyword-only parameters of its class, with a type that pydantic understands and a default.
"""

import ast
import functools
import pathlib

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
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:                    # computed, so not a plain fact
                continue
    return found
