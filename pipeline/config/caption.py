"""What stands above a table: its data, protocol, epochs, definitions, switches, methods, commit and device, a sentence
each. Rendered and fitted data are called so."""

from pipeline.config.schema import DISTILLING

NETWORKS = {"segnet": "SegNet", "mtan": "MTAN", "lenet": "LeNet", "resnet": "ResNet", "adamt": "AdaMT-Net"}
RULES = {"last": "last epoch", "last10": "mean of the last ten epochs, or all",
         "median20": "median of the last twenty epochs, or all", "train_loss": "lowest training loss",
         "best_test": "best on test (optimistic)"}
# where the printed numbers beside ours come from, when they are shown
CITED = {
    "xtask_streets": "The printed numbers are those of XTasC-Net's README: of MTAN (Uniform here), PCGrad (GS), KD4MTL "
                     "and AdaMT-Net from their own papers, so on other preparations of the data; its authors' own runs "
                     "of the first three gave mIoU 59.25, 58.45 and 58.46.",
    "xtask_rooms": "The printed numbers are those of XTasC-Net's README, of training on two tasks: MTAN (Uniform here; "
                   "how its tasks were weighted is not known), PCGrad (GS) and KD4MTL run by its authors, AdaMT-Net "
                   "from its paper.",
}
PAPERS = dict.fromkeys(("rooms", "quirks"), "200 epochs of batch 2 at 288x384 and width 1") | {
    "streets": "200 epochs of batch 8 at 128x256 and width 1", "domains": "300 epochs of batch 512",
    "xtask_streets": "250 epochs of batch 8 (MTAN: 200 of 2, AdaMT-Net: 200 of 8) at 128x256 and width 1",
    "xtask_rooms": "100 epochs of batch 6 (MTAN: 200 of 2, AdaMT-Net: 200 of 4) at 288x384 and width 1"}
RENDERED = {"scenes": ("rendered rooms", "NYUv2"), "streets": ("rendered streets", "Cityscapes"),
            "glyphs": ("drawn digits and characters", "SVHN and Omniglot")}


def sentences(chosen, suite, models, methods, rows, runs, printed=False):
    """What a reader has to know, a sentence each: data, protocol, selection, metric definitions, switches, origin."""
    switches, said, part = chosen.switches, [data(chosen, suite)], chosen.suite(suite)
    said.append(f"Protocol `{chosen.protocol}`: " + "; ".join(
        f"{NETWORKS.get(model, model)} {one.epochs} epochs of batch {one.batch}, Adam {one.lr:g} ({one.schedule}), "
        f"width {one.width:g}{trained(model, one, chosen)}"
        for model, one in chosen.training_of(suite).train.items() if model in models) + (
            "." if chosen.protocol == "paper" else f"; not the paper's {PAPERS[suite]}."))
    said.append(f"Epoch: {RULES[part.selection]}. Seeds {', '.join(map(str, part.seeds))}; mean ± sample standard "
                "deviation over n seeds, none for n = 1.")
    said.append("Delta_MTL = mean over tasks of the mean over a task's metrics of the relative gain on our own STL of "
                "the same seed, in percent; positive is better. STL is one network a task, its cost their sum. "
                "Inference is of one image, in float32, the median of 15.")
    if any("energy" in run for run in runs):
        said.append("Consistency energy: how far transferred predictions are from the direct ones on the test images, "
                    "a mean over pairs: classes' KL divergence over their number, depths' absolute difference, "
                    "normals' 1 - cosine.")
    if printed and suite in CITED:
        said.append(CITED[suite])
    uncut = "".join(f", {name} false" for name in ("crop_masks", "zoom_depth") if not getattr(switches, name))
    said.append(f"Switches: normal_mask {switches.normal_mask}, drop_last {str(switches.drop_last).lower()}, "
                f"step_first {str(switches.step_first).lower()}{uncut}, official_batch {part.official_batch}, features "
                f"{chosen.features.dtype} of the teachers' {chosen.features.teacher} epoch" + "".join(
                    f"; {one.title}: {', '.join(words)}" for one in map(chosen.methods.get, methods)
                    if (words := method(one, part.tasks))) + ".")
    said.append(f"Commit {', '.join(sorted({run['commit'] for run in runs}))}; "
                f"{'; '.join(sorted({run['device'] for run in runs}))}.")
    missing = [stem for row in rows for stem in row["missing"]]
    if missing:
        said.append(f"Not run or failed, shown as -: {', '.join(missing)}.")
    return said


def trained(model, training, chosen):
    """What differs from the defaults in how a network is trained and built."""
    words = [f"{key} {value}" for key, value in training.model_dump(
        include={"beta2", "precision", "augment"}, exclude_defaults=True).items()]
    words += [f"{key} {value}" for key, value in getattr(chosen.architectures, model).model_dump().items()]
    return f" ({', '.join(words)})" if words else ""


def method(row, tasks):
    """What a row of `methods` trains by, beyond defaults, a few words each."""
    chosen, words = row.model_dump(by_alias=True, exclude_defaults=True), []
    if row.objective in DISTILLING:
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


def data(chosen, suite):
    images, nyuv2, data = chosen.training_of(suite).data, chosen.datasets.nyuv2, chosen.suite(suite).data
    def count(images):
        return images if isinstance(images, int) else " + ".join(
            f"{'all' if number is None else number} {domain}" for domain, number in images)
    size = f"{count(images.train)} training and {count(images.test)} test images of {images.height}x{images.width}"
    if data in RENDERED:
        what, real = RENDERED[data]
        return f"Data: {what} (`{data}`), {size}; not {real}, so the paper's numbers are not shown."
    if data == "cityscapes":
        real = chosen.datasets.cityscapes
        made = "" if real.layout == "mtan" else (f"; from the original tree, if that is what is there: 7 classes by "
                                                 f"{real.seven}, disparity {real.disparity}")
        near = "; image nearest" if real.image == "nearest" else ""
        few = "" if real.classes == 7 else "; the paper has 7"
        return f"Data: Cityscapes, {real.classes} classes, {size}{made}{near}{few}."
    if data == "svhn_omniglot":
        return f"Data: SVHN and Omniglot, {size}." if chosen.datasets.svhn_omniglot.digits == "svhn" else (
            f"Data: MNIST and Omniglot, {size}; the paper has SVHN, so its numbers are not shown.")
    made = (f", from its authors' .mat files ({nyuv2.depth} depth, window {nyuv2.crop}), not MTAN's arrays, the paper's"
            if nyuv2.source == "mat" else "")
    fitted = ("; normals fitted to the depth, not the published ones, so the paper's normal columns are not shown"
              if nyuv2.normals == "derived" else "")
    return f"Data: NYUv2, {size}{made}{fitted}."
