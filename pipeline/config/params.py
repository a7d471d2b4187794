"""A suite's params.yaml -> one frozen, checked tree; no torch. `python -m pipeline.config` checks them all.

The top-level params.yaml is a suite, and so is every folder of pipeline/suites. A search takes its settings from the
suite that it searches.
"""

import pathlib

from pydantic import TypeAdapter, ValidationError

from pipeline.config import checks, reading
from pipeline.config.methods import Method
from pipeline.config.schema import Suite
from pipeline.options.mistakes import nearest, sentence, shown, unknown
from pipeline.options.types import Name
from pipeline.runtime.errors import UserError

TOP, HOME = pathlib.Path("params.yaml"), pathlib.Path("pipeline/suites")
# What a search takes from the suite that it searches.
SETTINGS = ("protocol", "data", "selection", "official_batch", "datasets", "protocols", "architectures", "features",
            "methods", "switches")
GROUPS = ("teacher", "baseline", "wide", "student", "ablation", "derived", "refined")     # stages of dvc.yaml


ADAPTER = TypeAdapter(Method)


class Params(Suite):
    methods: dict[Name, Method]

    def groups(self):
        """{group: its section} of those that train a row, teachers first."""
        return {name: group for name in GROUPS if (group := getattr(self, name)).rows}

    @property
    def tasks(self):
        """Of every network that is no teacher, in the order of the teachers."""
        return self.teacher.rows

    @property
    def protocol_in_force(self):
        return self.protocols[self.protocol]


def files():
    """{suite: its params.yaml}, the top one first. `UserError` for a folder that is no suite."""
    found = {suite_of(TOP): TOP}
    for folder in sorted(path for path in HOME.glob("*") if path.is_dir() and path.name != "__pycache__"):
        if not (folder / "params.yaml").exists():
            raise UserError(f"{folder} has no params.yaml, so it is no suite; add one, or remove the folder")
        name = suite_of(folder / "params.yaml")
        if name in found:
            raise UserError(f"{found[name]} and {folder}/params.yaml are both the suite {name!r}; each needs a name of "
                            "its own, as its folder and in `suite`")
        if name != folder.name:
            raise UserError(f"{folder}/params.yaml: `suite` is {shown(name)}; it should be {folder.name!r}, as "
                            "its folder")
        found[name] = folder / "params.yaml"
    return found


def suite_of(file):
    """The name that a params.yaml gives its suite."""
    name = reading.read(file).get("suite")
    if not isinstance(name, str):
        raise UserError(f"{file}: `suite` is {shown(name)}; it should be the suite's name, as `rooms` is")
    return name


def check_copies():
    """Every suite's dvc.yaml is a copy of the top one, since DVC takes a link's text for its content."""
    top = pathlib.Path("dvc.yaml")
    for folder in sorted(path.parent for path in HOME.glob("*/params.yaml")):
        copy = folder / "dvc.yaml"
        if copy.is_symlink() or not copy.exists() or copy.read_bytes() != top.read_bytes():
            what = ("is a link" if copy.is_symlink() else "differs from dvc.yaml" if copy.exists() else "is not there")
            raise UserError(f"{copy} {what}; every suite has a copy of the one dvc.yaml: run `make suites`")


def load(name, protocol=None):
    """A suite's checked parameters, under another protocol if one is named. `UserError` with the first mistake."""
    known = files()
    if name not in known:
        raise UserError(f"{name!r} is no suite; there are {', '.join(known)}{nearest(name, known)}")
    tree = reading.read(known[name])
    if tree.get("searches"):
        source = searched(tree["searches"], known, known[name])
        settings, seeds = reading.read(source), load(tree["searches"][0]).seeds
        wanted = tree.get("seeds")
        if missing := [seed for seed in wanted if seed not in seeds] if isinstance(wanted, list) else []:
            raise UserError(f"{known[name]}: `seeds` has {missing[0]!r}, which {source} has not ({seeds}): "
                            "what is found is trained on that seed's teachers")
        tree = {key: settings[key] for key in SETTINGS if key in settings} | tree
        expected = {"params_file": str(known[name]), "reads": str(source)}
    else:
        expected = dict.fromkeys(("params_file", "reads"), str(known[name]))
    tree |= {"protocol": protocol} if protocol else {}
    for key, value in expected.items():
        if tree.get(key) != value:
            raise UserError(f"{known[name]}: `{key}` is {shown(tree.get(key))}; dvc.yaml reads it, and it should be "
                            f"{value}")
    try:
        inherit(tree)
        chosen = Params(**tree)
        if not pathlib.Path(chosen.paper).is_file():
            raise ValueError(f"`paper` is {chosen.paper!r}, which is no file; it holds what the suite's paper printed")
        checks.everything(chosen)
    except ValidationError as mistake:
        # a misspelt key is also a missing one: the unknown name is the better news
        first = min(mistake.errors(), key=lambda error: error["type"] != "extra_forbidden")
        raise UserError(f"{known[name]}: {told(first, tree)}") from None
    except (ValueError, UserError) as mistake:
        raise UserError(f"{known[name]}: {mistake}") from None
    return chosen


def searched(named, known, file):
    """The params.yaml of the suite that a search names, which searches nothing itself."""
    others = [suite for suite, path in known.items() if not reading.read(path).get("searches")]
    if not isinstance(named, list) or len(named) != 1 or named[0] not in others:
        raise UserError(f"{file}: `searches` is {shown(named)}; it should hold one suite of {', '.join(others)}")
    return known[named[0]]


def told(mistake, tree):
    where = mistake["loc"]
    if mistake["type"] == "extra_forbidden" and len(where) == 1 and isinstance(tree[where[0]], dict) and (
            "rows" in tree[where[0]]):
        return (f"`{where[0]}` is a group of rows that no stage of dvc.yaml trains; the groups are {', '.join(GROUPS)}"
                f"{nearest(where[0], GROUPS)}")
    return sentence(mistake, Params)


def inherit(tree):
    """Put in place what `like` in a method and `default` beside a protocol's networks stand for."""
    methods = tree.get("methods")
    if isinstance(methods, dict):
        tree["methods"] = {name: like(name, methods, []) for name in methods}
    lists = [mapping_of(tree, group).get("models") for group in GROUPS]
    models = [model for found in lists if isinstance(found, list) for model in found if isinstance(model, str)]
    for name in mapping_of(tree, "protocols"):
        protocol = mapping_of(tree["protocols"], name)
        train = mapping_of(protocol, "train")
        if isinstance(train.get("default"), dict):
            default = train.pop("default")
            own = {model: train.get(model, {}) for model in dict.fromkeys([*models, *train])}
            protocol["train"] = {model: default | keys if isinstance(keys, dict) else keys
                                 for model, keys in own.items()}


def mapping_of(tree, key):
    """What stands below a key, where that is a mapping; the schema refuses what is not."""
    return found if isinstance(found := tree.get(key), dict) else {}


def like(name, methods, seen):
    """A method over the one that it is like."""
    method = methods[name]
    if not isinstance(method, dict) or "like" not in method:
        return method
    other = method["like"]
    if not isinstance(other, str) or other not in methods:
        raise ValueError(unknown(other, f"methods.{name}.like", methods))
    if other in (*seen, name):
        raise ValueError(f"`methods.{name}.like` is {shown(other)}, and so goes round in a circle: "
                         f"{' -> '.join([*seen, name, other])}")
    base = like(other, methods, [*seen, name])
    own = {key: value for key, value in method.items() if key != "like"}
    return base | own if isinstance(base, dict) else base


def changed(method, changes):
    """A method with some of its keys changed, as the `with` of a chained group says."""
    return ADAPTER.validate_python(method.model_dump(by_alias=True, exclude_unset=True) | changes)
