"""Which data sets there are, and what their readers state of themselves; no torch.

Beside what `pipeline/data/__init__.py` asks of it, a reader may state

    TITLE, STANDS_FOR          what tables call it (else its file's name), and the real set that it stands for
    TASKS                      the tasks that it has targets for
    lacks(options)             {task of those that its options leave out: the option that gives it}
    class Options(Section)     its section of `datasets` in params.yaml
    called(options), described(options)      what stands above a table for its title, and behind the numbers of images
    comparable(options)        the tasks whose printed numbers may stand beside ours; none where it says nothing
"""

import importlib

from pipeline.options import declared


def names():
    """Files of this folder that are readers: those that list a split's images, with `ids`."""
    return [name for name in declared.names("pipeline.data") if "ids" in declared.functions(f"pipeline.data.{name}")]


def reader(name):
    return importlib.import_module(f"pipeline.data.{name}")


def title(name):
    return getattr(reader(name), "TITLE", name)


def comparable(name, options):
    """Tasks whose printed numbers may stand beside ours on this data."""
    one = reader(name)
    return getattr(one, "comparable", lambda options: ())(options)
