"""How the names in a suite's params.yaml hold together with one another and with what the code has; no torch.

Every check raises ValueError with one sentence that names the key, the value found and what would be right.
"""

from pipeline import tasks
from pipeline.config.methods import Consistent, ConsistentDistillation, FeatureDistillation
from pipeline.config.schema import SETS, TRIAL
from pipeline.data import readers
from pipeline.options import declared
from pipeline.options.mistakes import one_of, resolved

CHAINED = ("derived", "refined")                 # groups whose rows go on from another's weights, under its names too
FROM_TEACHERS = ("student", "ablation")          # groups whose stages in dvc.yaml wait for the teachers' features


def everything(chosen):
    reader(chosen)
    networks(chosen)
    protocols(chosen)
    if chosen.search:
        search(chosen)
    else:
        rows(chosen)
    parents(chosen)
    balancers(chosen)
    tables(chosen)


def reader(chosen):
    """Data sets are readers with options of their own, and the one in force has every teacher's task."""
    known = readers.names()
    for name, options in chosen.datasets.items():
        one_of(name, "datasets", known)
        resolved(readers.reader(name).Options, options, f"datasets.{name}")
    one_of(chosen.data, "data", chosen.datasets)
    if not chosen.teacher.rows:
        raise ValueError("`teacher.rows` is empty; it names the suite's tasks, a single-task network each")
    own = readers.reader(chosen.data)
    options = resolved(own.Options, chosen.datasets[chosen.data], "").model_dump()
    lacks = own.lacks(options) if hasattr(own, "lacks") else {}
    for task in chosen.teacher.rows:
        if task not in own.TASKS:
            raise ValueError(f"`teacher.rows` has {task!r}, but `data: {chosen.data}` has {', '.join(own.TASKS)}")
        if task in lacks:
            raise ValueError(f"`teacher.rows` has {task!r}, which `data: {chosen.data}` has only with {lacks[task]}")


def flat(task):
    """Whether a task has one label an image."""
    return tasks.facts(task).flat


def is_flat(chosen):
    return all(map(flat, chosen.teacher.rows))


def families():
    """Files of models that hold a network; the others are what networks share."""
    return [name for name in declared.names("models") if "TITLE" in declared.constants(f"models.{name}")]


def fact(model, key):
    return declared.constants(f"models.{model}")[key]


def architecture(chosen, model):
    """A network's options as its class has them, checked; what its FROM_DATA names comes from the protocol."""
    from_data = declared.constants(f"models.{model}").get("FROM_DATA", ())
    options = declared.options(f"models.{model}", "Model", from_data)
    own = resolved(options, chosen.architectures.get(model), f"architectures.{model}").model_dump()
    protocol = chosen.protocol_in_force
    given = {"size": [protocol.data.height, protocol.data.width], "batch": protocol.train[model].batch,
             "target_stride": protocol.data.target_stride}
    return own | {key: given[key] for key in from_data}


def networks(chosen):
    """Networks are files of models/, take the suite's tasks, its images and the options they are given."""
    known = families()
    for model in chosen.architectures:
        one_of(model, "architectures", known)
    for group_name, group in groups(chosen).items():
        for model in group.models:
            one_of(model, f"{group_name}.models", known)
            if fact(model, "FLAT") != is_flat(chosen):
                fitting = [name for name in known if fact(name, "FLAT") == is_flat(chosen)]
                raise ValueError(f"`{group_name}.models` has {model!r}, which takes no {', '.join(chosen.tasks)}; "
                                 f"those that do are {', '.join(fitting)}")


def groups(chosen):
    """Every group with a row."""
    return chosen.groups()


def protocols(chosen):
    """The protocol in force has what the suite's data and networks need."""
    one_of(chosen.protocol, "protocol", chosen.protocols)
    protocol, where = chosen.protocol_in_force, f"protocols.{chosen.protocol}"
    for group_name, group in groups(chosen).items():
        for model in group.models:
            if model not in protocol.train:
                raise ValueError(f"`{where}.train` has no section for {model!r} of `{group_name}.models`, and no "
                                 "`default`")
            images(chosen, model, where)
            architecture(chosen, model)
            pretrained(chosen, model, where)
    for split in ("train", "test"):
        number = getattr(protocol.data, split)
        if isinstance(number, dict) != is_flat(chosen) or isinstance(number, dict) and set(number) != set(chosen.tasks):
            raise ValueError(f"`{where}.data.{split}` is {number}; with `data: {chosen.data}` it should be "
                             + ("{" + ", ".join(f"{task}: a number" for task in chosen.tasks) + "}"
                                if is_flat(chosen) else "a number of images"))


def images(chosen, model, where):
    protocol, own = chosen.protocol_in_force, declared.constants(f"models.{model}")
    for side in ("height", "width"):
        if getattr(protocol.data, side) < fact(model, "SMALLEST"):
            raise ValueError(f"`{where}.data.{side}` is {getattr(protocol.data, side)}; {model} takes images of "
                             f"{fact(model, 'SMALLEST')} pixels a side or more")
        if getattr(protocol.data, side) % (sides := own.get("SIDES", 1)):
            raise ValueError(f"`{where}.data.{side}` is {getattr(protocol.data, side)}; {model} takes images whose "
                             f"sides {sides} divides")
    if protocol.data.target_stride not in (strides := own.get("TARGET_STRIDES", (1,))):
        raise ValueError(f"`{where}.data.target_stride` is {protocol.data.target_stride}; {model} predicts one pixel "
                         f"of {' or '.join(map(str, strides))} a side")
    if is_flat(chosen) and protocol.train[model].batch % len(chosen.tasks):
        raise ValueError(f"`{where}.train.{model}.batch` is {protocol.train[model].batch}; an equal share of a batch "
                         f"is of each of {', '.join(chosen.tasks)}, so {len(chosen.tasks)} should divide it")
    if is_flat(chosen) and protocol.train[model].augment != "none":
        raise ValueError(not_augmented(f"{where}.train.{model}.augment", chosen))


def not_augmented(key, chosen):
    return (f"`{key}` scales, cuts, turns or mirrors, which makes other {' and '.join(chosen.tasks)} of those that are "
            "there; set it to none")


def pretrained(chosen, model, where):
    width = chosen.protocol_in_force.train[model].width
    if architecture(chosen, model).get("pretrained") and width != 1:
        raise ValueError(f"`{where}.train.{model}.width` is {width:g}, but the weights that "
                         f"`architectures.{model}.pretrained` takes are of width 1; set one of the two")


def rows(chosen):
    """Every row is a method, of one group, that the group's stage can train."""
    seen = {task: "teacher.rows" for task in chosen.tasks}
    for group_name, group in groups(chosen).items():
        where = f"{group_name}.rows"
        if group_name == "teacher":
            continue
        for row in group.rows:
            one_of(row, where, chosen.methods)
            method(chosen, group_name, group, row)
            if group_name in CHAINED:
                continue
            if row in seen:
                raise ValueError(f"`{where}` has {row!r}, which `{seen[row]}` has too; one of them is enough")
            seen[row] = where


def method(chosen, group_name, group, row):
    method = chosen.methods[row]
    if isinstance(method, FeatureDistillation) != (group_name in FROM_TEACHERS):
        raise ValueError(f"`{group_name}.rows` has {row!r}, whose objective is {method.objective!r}; rows that follow "
                         f"teachers stand in {' or '.join(FROM_TEACHERS)}, the others elsewhere")
    if isinstance(method, FeatureDistillation):
        distils(chosen, group_name, group, row, method)
    if isinstance(method, Consistent | ConsistentDistillation):
        agrees(chosen, row, method.consistency)
    if is_flat(chosen) and method.augment not in (None, "none"):
        raise ValueError(not_augmented(f"methods.{row}.augment", chosen))


def distils(chosen, group_name, group, row, method):
    if missing := sorted(set(chosen.tasks) - set(method.lambda_)):
        raise ValueError(f"`methods.{row}.lambda` has no value for {', '.join(missing)}")
    for model in group.models:
        if model not in chosen.teacher.models:
            raise ValueError(f"`{group_name}.models` has {model!r}, of which `teacher.models` "
                             f"({', '.join(chosen.teacher.models)}) trains no teacher")
        for tap in method.taps:
            if tap not in fact(model, "TAPS"):
                raise ValueError(f"`methods.{row}.taps` are {method.taps}, but {model} has only "
                                 f"{' and '.join(f'`{known}`' for known in fact(model, 'TAPS'))}")


def agrees(chosen, name, consistency):
    """Two tasks or more that can be transferred, and a share for each."""
    where, pairs = f"methods.{name}.consistency", [task for pair in consistency.pairs or () for task in pair.split("-")]
    needed = set(chosen.tasks if consistency.pairs is None else pairs)
    for task in pairs:
        one_of(task, f"{where}.pairs", chosen.tasks)
    if missing := sorted(needed - set(consistency.lambda_)):
        raise ValueError(f"`{where}.lambda` has no value for {', '.join(missing)}")
    if consistency.pairs is None and (len(chosen.tasks) < 2 or is_flat(chosen)):
        raise ValueError(f"`methods.{name}` carries predictions of one task over to another's, of the same image; the "
                         f"tasks {', '.join(chosen.tasks)} have none")


def parents(chosen):
    """What a chain begins from exists, and no chain goes round in a circle."""
    after = {name: getattr(chosen, name).after for name in CHAINED if getattr(chosen, name).rows}
    for name, parent in after.items():
        group_name = parent if isinstance(parent, str) else parent.group
        wanted = [parent.row] if not isinstance(parent, str) else getattr(chosen, name).rows
        there = groups(chosen).get(group_name)
        if there is None:
            raise ValueError(f"`{name}.after` is the group {group_name!r}, which trains nothing; the groups that do "
                             f"are {', '.join(groups(chosen))}")
        for row in wanted:
            if row not in there.rows:
                raise ValueError(f"`{name}` has no parent for {row!r}: `{group_name}.rows` are {', '.join(there.rows)}")
        for model in getattr(chosen, name).models:
            if model not in there.models:
                raise ValueError(f"`{name}.models` has {model!r}, of which `{group_name}` trains no parent "
                                 f"({', '.join(there.models)})")
        above = after.get(group_name)
        if name == group_name or above is not None and (above if isinstance(above, str) else above.group) == name:
            raise ValueError(f"`{name}.after` is {group_name!r}, which comes after {name!r} itself: a circle")


def balancers(chosen):
    """Balancers are files, or names that released codes have for them, and take the options that they are given."""
    known = balancer_files()
    for name, method in chosen.methods.items():
        for task in getattr(method, "lambda_", ()):
            one_of(task, f"methods.{name}.lambda", tasks.names())
        one_of(method.balancer, f"methods.{name}.balancer", known)
        where, module = f"methods.{name}.options", f"pipeline.balancers.{known[method.balancer]}"
        model = declared.options(module, "Balancer", declared.constants("pipeline.balancers")["FROM_LOOP"])
        options = resolved(model, method.options, where)
        if options.preference and declared.attribute(module, "Balancer", "prefers") is None:
            raise ValueError(f"`{where}.preference` is {options.preference}; {known[method.balancer]} undoes any")
        for task in options.preference or ():
            one_of(task, f"{where}.preference", chosen.tasks)


def balancer_files():
    """{name: file} of every balancer, by its own name and by those that released codes have for it."""
    names = declared.names("pipeline.balancers")
    aliases = {alias: name for name in names
               for alias in declared.constants(f"pipeline.balancers.{name}").get("KNOWN_AS", ())}
    return {name: name for name in names} | aliases


def tables(chosen):
    """A table's groups have rows, and the stage that makes it waits for them."""
    for kind, names in chosen.tables.items():
        for name in names:
            for group in ("teacher", *SETS[kind]):
                if group not in groups(chosen):
                    raise ValueError(f"`tables.{kind}` has {name!r}, which waits for results of `{group}`, but that "
                                     "has no rows; list one, or take the table out")
            one_of(name, f"tables.{kind}", chosen.printed)
            if name.startswith("table-"):
                raise ValueError(f"`tables.{kind}` has {name!r}; its make target is `table-` and its name, so leave "
                                 "out the `table-`")
            for group in chosen.printed[name].rows:
                one_of(group, f"printed.{name}.rows", SETS[kind])
            for model in chosen.printed[name].models or ():
                one_of(model, f"printed.{name}.models", {model for group in chosen.printed[name].rows
                                                         for model in groups(chosen)[group].models})
    once = [name for names in chosen.tables.values() for name in names]
    for name in chosen.printed:
        if once.count(name) != 1:
            raise ValueError(f"`printed` has {name!r}, which stands {once.count(name)} times in `tables`; it should be "
                             "once")


def search(chosen):
    """A method that distils is searched; a trial is a lambda for each task."""
    one_of(chosen.search.method, "search.method", chosen.methods)
    method = chosen.methods[chosen.search.method]
    if not isinstance(method, FeatureDistillation):
        raise ValueError(f"`search.method` is {chosen.search.method!r}, whose objective {method.objective!r} has no "
                         "lambda")
    distils(chosen, "student", chosen.student, chosen.search.method, method)
    for trial in chosen.student.rows:
        if not TRIAL.fullmatch(trial) or trial.count("-") + 1 != len(chosen.tasks):
            raise ValueError(f"`student.rows` has {trial!r}; a trial is a lambda for each of "
                             f"{', '.join(chosen.tasks)}, as in '{'-'.join(['1'] * len(chosen.tasks))}'")
