"""A mistake in params.yaml as one sentence that names the key, the value found and the nearest right one."""

import difflib
from typing import get_args, get_origin

from pydantic import BaseModel

TAGS = ("supervised", "feature_distillation")      # what tells the kinds of method apart; no keys of the file


def one_of(value, key, known):
    """ValueError unless `value` is among the known ones."""
    if value not in known:
        raise ValueError(f"`{key}` has {value!r}, which is not among {', '.join(sorted(known))}{nearest(value, known)}")


def nearest(word, known):
    close = difflib.get_close_matches(str(word), list(known), 1, 0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def sentence(mistake, tree):
    """One pydantic error under the model `tree` as a sentence: the key, the value found and what would be right."""
    where = [part for part in mistake["loc"] if part not in TAGS]
    key, value, kind = ".".join(map(str, where)), mistake["input"], mistake["type"]
    if kind == "extra_forbidden":
        known = keys_at(tree, mistake["loc"][:-1])
        return f"unknown key `{key}`{nearest(where[-1], known)} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"`{key}` is missing"
    if kind == "value_error":
        prefix = f"`{key}`: " if key else ""
        return prefix + mistake["msg"].removeprefix("Value error, ")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"`{key}.objective` must be supervised or feature_distillation, found {value.get('objective')!r}"
    if isinstance(value, str) and kind in ("float_type", "int_type") and is_number(value):
        return (f"`{key}` is the text {value!r} to PyYAML though a number to DVC; "
                f"write {with_point(value)} (with a point before the e)")
    return f"`{key}` is {value!r}; {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def with_point(text):
    digits, _, power = text.lower().partition("e")
    digits = digits if "." in digits else f"{digits}.0"
    return f"{digits}e{power if power[:1] in '+-' else '+' + power}" if power else digits


def keys_at(annotation, path):
    """Names that are known under `path`, from the models' own fields."""
    for part in path:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            by_key = {field.alias or name: field for name, field in annotation.model_fields.items()}
            annotation = by_key[part].annotation
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        else:                                              # the tag of a discriminated union
            members = get_args(get_args(annotation)[0])
            annotation = next(m for m in members if part in get_args(m.model_fields["objective"].annotation))
    return [field.alias or name for name, field in annotation.model_fields.items()]
