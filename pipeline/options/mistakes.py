"""A mistake in params.yaml as one sentence that names the key, the value found and the nearest right one."""

import difflib
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.runtime.errors import UserError

LONGEST = 200                        # characters of a value in a sentence
# What pydantic adds to tell the kinds of a value apart; no keys of the file.
TAGS = ("constrained-int", "int", "Pair", "[key]")


def one_of(value, key, known):
    """ValueError unless `value` is among the known ones."""
    if value not in known:
        raise ValueError(unknown(value, key, known))


def unknown(value, key, known):
    return f"`{key}` has {shown(value)}, which is not among {', '.join(sorted(known))}{nearest(value, known)}"


def shown(value):
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"


def nearest(word, known):
    close = difflib.get_close_matches(str(word), list(known), 1, 0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def resolved(model, options, where):
    """Options as their own pydantic model has them, its defaults filled in; `UserError` in one sentence."""
    try:
        return model(**(options or {}))
    except ValidationError as mistake:
        first = min(mistake.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise UserError(sentence(first, model, where)) from None
    except TypeError:
        raise UserError(f"`{where}` is {options!r}; it should hold keys and values") from None


def sentence(mistake, tree, above=""):
    """One pydantic error under the model `tree` as a sentence: the key, the value found and what would be right.

    above: where in the file the model's own keys stand.
    """
    where = [part for i, part in enumerate(mistake["loc"])
             if part not in TAGS and not (i == 2 and mistake["loc"][0] == "methods")]     # there stands the objective
    key, value, kind = ".".join(map(str, [*[above] * bool(above), *where])), mistake["input"], mistake["type"]
    if kind == "extra_forbidden":
        known = keys_at(tree, mistake["loc"][:-1])
        return f"unknown key `{key}`{nearest(where[-1], known)} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"`{key}` is missing"
    if kind == "value_error":
        prefix = f"`{key}`: " if key else ""
        return prefix + mistake["msg"].removeprefix("Value error, ")
    if kind == "union_tag_not_found":
        return f"`{key}.objective` is missing"
    if kind == "union_tag_invalid":
        return unknown(value["objective"], f"{key}.objective",
                       mistake["ctx"]["expected_tags"].replace("'", "").split(", "))
    if isinstance(value, str) and kind in ("float_type", "int_type") and is_number(value):
        return f"`{key}` is the text {value!r}; write {value} without quotes"
    return f"`{key}` is {shown(value)}; {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def is_number(text):
    """Whether YAML 1.2 takes a text for a number once its quotes are gone; Python's `1_0` it does not."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def keys_at(annotation, path):
    """Names that are known under `path`, from the models' own fields."""
    for part in path:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif is_section(annotation):
            annotation = {field.alias or name: field for name, field in annotation.model_fields.items()}[
                part].annotation
        else:                                              # the tag of a union, or a section that may be null
            members = [m for m in (*get_args(annotation), *get_args(get_args(annotation)[0])) if is_section(m)]
            named = [m for m in members if part == m.__name__ or "objective" in m.model_fields
                     and part in get_args(m.model_fields["objective"].annotation)]
            annotation = named[0] if named else members[0].model_fields[part].annotation
    if not is_section(annotation):
        annotation = next(m for m in get_args(annotation) if is_section(m))
    return [field.alias or name for name, field in annotation.model_fields.items()]


def is_section(annotation):
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
