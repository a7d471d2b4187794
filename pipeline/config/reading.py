"""YAML as DVC reads it: numbers of YAML 1.2 (`1e-06`, which DVC itself writes, is one), and no aliases.

DVC's `exp run -S` and its VS Code extension change a file through its aliases and merge keys without a word: of what an
alias names they write the old values back, and one edit changes many places (treeverse/dvc#10984). So a file with one
is refused; `like` in a method and `default` beside the models say the same.
"""

import copy
import functools
import re

import yaml

from pipeline.runtime.errors import UserError

LONGEST, DEEPEST = 300, 50           # digits of a whole number; lists and keys in one another


class Loader(yaml.CSafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {}


for tag, pattern, first in (
        ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("null", r"~|null|Null|NULL|", "~nN\0"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
         "-+.0123456789")):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first) + [""] * (
        tag == "null"))


def integer(loader, node):
    text = loader.construct_scalar(node)
    if re.match(r"[-+]?0[0-9]", text):
        raise refused(f"{text} is octal to some readers of YAML, not to others; write it without the leading 0", node)
    if len(text) > LONGEST:
        raise refused(f"a number has {len(text)} digits; {LONGEST} are the most", node)
    return int(text, 8) if text.startswith("0o") else int(text, 16) if text.startswith("0x") else int(text)


def mapping(loader, node):
    """DVC refuses a key that stands twice; PyYAML would take the last without a word."""
    found = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise refused("a list or a mapping is a key; keys are text", key_node)
        key = loader.construct_object(key_node, deep=True)
        if key in found:
            raise refused(f"the key {key!r} stands twice", key_node)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


def refused(what, node):
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


Loader.add_constructor("tag:yaml.org,2002:map", mapping)
Loader.add_constructor("tag:yaml.org,2002:int", integer)
Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(
    re.sub(r"\.(inf|nan)", r"\1", loader.construct_scalar(node).lower())))


def read(file):
    """A file's mapping with text keys. `UserError` for one that is missing, is no YAML or has an alias."""
    try:
        payload = file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} is not here; run from the root of the project") from None
    try:
        return copy.deepcopy(parsed(file, payload.decode()))
    except UnicodeDecodeError as mistake:
        line = payload.count(b"\n", 0, mistake.start) + 1
        raise UserError(f"{file}, line {line}, has a byte that is no UTF-8 (0x{payload[mistake.start]:02x}, at byte "
                        f"{mistake.start}); save the file as UTF-8") from None


def text(tree):
    """YAML that `read` takes: a list that stands in two places is written out twice, as aliases are refused."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, width=1000)


class Dumper(yaml.CSafeDumper):
    def ignore_aliases(self, data):
        return True


@functools.cache
def parsed(file, text):
    """The mapping; a suite's file is read again and again, and its text seldom changes."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader):
            refuse_alias(file, event)
            refuse_tag(file, event)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{file}, line {event.start_mark.line + 1}, nests lists and keys {depth} deep; "
                                f"{DEEPEST} is the most")
        tree = yaml.load(text, Loader)
    except yaml.YAMLError as mistake:
        said = " ".join(str(mistake).replace('in "<unicode string>", ', "at ").split())
        raise UserError(f"{file} is not YAML as DVC reads it: {said}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file} holds no keys; take the file from the repository again")
    return {str(key): value for key, value in tree.items()}


def refuse_alias(file, event):
    mark = "*" if isinstance(event, yaml.AliasEvent) else "&"
    anchor = getattr(event, "anchor", None)
    if anchor or getattr(event, "value", None) == "<<":
        what = f"{mark}{anchor}" if anchor else "<<"
        raise UserError(f"{file}, line {event.start_mark.line + 1}, has `{what}`; DVC's -S writes old values through "
                        "aliases, anchors and merge keys, so write `like: <method>` in a method, or a `default` beside "
                        "the models of a protocol")


def refuse_tag(file, event):
    """DVC keeps a tag and what it makes of a value, or stops at it; no parameter needs one."""
    if tag := getattr(event, "tag", None):
        raise UserError(f"{file}, line {event.start_mark.line + 1}, has the tag `{tag}`; write the value without it")
