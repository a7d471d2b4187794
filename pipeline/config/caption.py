"""What stands above a table: its data, protocol, epochs, definitions, switches and methods, a sentence each.

A data set is called what its reader calls it, with what it stands for; one whose reader says nothing, by its name.
"""

from pipeline.config import checks
from pipeline.config.methods import FeatureDistillation
from pipeline.data import readers
from pipeline.options.mistakes import resolved

RULES = {"last": "last epoch", "last10": "mean of the last ten epochs, or all",
         "median20": "median of the last twenty epochs, or all", "train_loss": "lowest training loss",
         "best_test": "best on test (optimistic)"}
DELTA = ("Delta_MTL = mean over tasks of the mean over a task's metrics of the relative gain on our own STL of the "
         "same seed, in percent; positive is better. STL is one network a task, its cost their sum. Inference is of "
         "one image, in float32, the median of 15.")
ENERGY = ("Consistency energy: how far transferred predictions are from the direct ones on the test images, a mean "
          "over pairs: classes' KL divergence over their number, depths' absolute difference, normals' 1 - cosine.")


MASKED = ("mIoU in the first block: of each image over the classes of its labelled pixels, void pixels masked, then "
          "over images; depth errors are means over a batch, weighed by its images: what XTasC-Net's loggers measure.")


def sentences(chosen, paper, models, methods, definition):
    """{what it is about: a sentence} of what a reader has to know that follows from params.yaml alone."""
    return {"data": told_data(chosen, paper), "protocol": protocol(chosen, paper, models),
            "selection": f"Epoch: {RULES[chosen.selection]}. Seeds {', '.join(map(str, chosen.seeds))}; mean ± sample "
                         "standard deviation over n seeds, none for n = 1.",
            **({"definition": MASKED} if definition == "masked" else {}), "delta": DELTA, "energy": ENERGY,
            "note": paper["note"], "switches": switches(chosen, methods)}


def told_data(chosen, paper=None):
    """What the images are, how many, and why the paper's numbers do not stand beside ours, where they do not."""
    reader, options = readers.reader(chosen.data), chosen.datasets[chosen.data]
    options = resolved(reader.Options, options, "").model_dump()
    images = chosen.protocol_in_force.data
    size = f"{count(images.train)} training and {count(images.test)} test images of {images.height}x{images.width}"
    size += f", targets of every {images.target_stride}th pixel" if images.target_stride > 1 else ""
    title, stands_for = readers.title(chosen.data), getattr(reader, "STANDS_FOR", None)
    if stands_for:
        return f"Data: {title} (`{chosen.data}`), {size}; not {stands_for}, so the paper's numbers are not shown."
    told = getattr(reader, "described", lambda options: "")(options)
    if paper and not readers.comparable(chosen.data, options):
        told += f"; the paper has {paper['data']}, so its numbers are not shown"
    return f"Data: {getattr(reader, 'called', lambda options: title)(options)}, {size}{told}."


def count(images):
    if isinstance(images, dict):
        return " + ".join(f"{'all' if number is None else number} {task}" for task, number in images.items())
    return "all" if images is None else images


def protocol(chosen, paper, models):
    used = "; ".join(
        f"{checks.fact(model, 'TITLE')} {one.epochs} epochs of batch {one.batch}, Adam {one.lr:g} ({one.schedule}), "
        f"width {one.width:g}{trained(model, one, chosen)}"
        for model, one in chosen.protocol_in_force.train.items() if model in models)
    end = "." if chosen.protocol == "paper" else f"; not the paper's {paper['protocol']}."
    return f"Protocol `{chosen.protocol}`: {used}{end}"


def trained(model, training, chosen):
    """What differs from the defaults in how a network is trained and built."""
    words = [f"{key} {value}" for key, value in training.model_dump(
        include={"beta2", "step_from", "precision", "augment"}, exclude_defaults=True).items()]
    words += [f"{key} {value}" for key, value in (chosen.architectures.get(model) or {}).items() if key != "pretrained"]
    begun = checks.architecture(chosen, model).get("pretrained")
    words += [] if begun is None else ["first weights ImageNet's" if begun else "first weights random"]
    return f" ({', '.join(words)})" if words else ""


def switches(chosen, methods):
    switches = chosen.switches
    uncut = "".join(f", {name} false" for name in ("crop_masks", "zoom_depth") if not getattr(switches, name))
    words = "".join(f"; {one.title}: {', '.join(words)}" for one in map(chosen.methods.get, methods)
                    if (words := method(one, chosen.tasks)))
    return (f"Switches: normal_mask {switches.normal_mask}, drop_last {str(switches.drop_last).lower()}, step_first "
            f"{str(switches.step_first).lower()}{uncut}, official_batch {chosen.official_batch}, features "
            f"{chosen.features.dtype} of the teachers' {chosen.features.teacher} epoch{words}.")


def method(row, tasks):
    """What a row of `methods` trains by, beyond defaults, a few words each."""
    chosen, words = row.model_dump(by_alias=True, exclude_defaults=True), []
    if isinstance(row, FeatureDistillation):
        words.append(f"teacher_bn {row.teacher_bn}")
        words += [f"{'+'.join(row.taps)}, {row.adaptor} adaptors, lambda "
                  + " ".join(f"{row.lambda_[task]:g}" for task in tasks)] if row.taps else []
    words += [f"balancer {row.balancer}"] if row.objective != "supervised" and row.balancer != "uniform" else []
    for key, value in chosen.items():
        if key == "consistency":
            shares = " ".join(f"{value['lambda'][task]:g}" for task in tasks if task in value.get("lambda", ()))
            words += [f"consistency lambda {shares}" if value.get("pairs") != [] else "no transfer",
                      *(f"{name} {x}" for name, x in value.items() if name not in ("lambda", "pairs"))]
        elif key not in ("title", "objective", "balancer", "taps", "adaptor", "lambda", "teacher_bn"):
            words += [f"{name} {x}" for name, x in value.items()] if isinstance(value, dict) else [f"{key} {value}"]
    return words


def search(chosen):
    """The sentences above a search's report."""
    share = chosen.search
    return [told_data(chosen),
            f"Search: {share.hold_out:.0%} of the training images held out (seed {share.seed}); lambda of "
            f"{', '.join(chosen.tasks)}, else `methods.{share.method}`; score: Delta_MTL on those images, "
            f"{RULES[chosen.selection]}, mean over seeds {', '.join(map(str, chosen.seeds))}.",
            f"Protocol `{chosen.protocol}`, suite {chosen.searches[0]}."]
