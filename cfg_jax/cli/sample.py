"""The command `sample`: images of chosen labels, as a picture or as an .npz file."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from cfg_jax.cli import INTERRUPTED, FailedError, conditions, flagging
from cfg_jax.data.images import enlarge, interleave, save_grid, to_uint8
from cfg_jax.diffusion import checks
from cfg_jax.run import FORMS, NoisyClassifier, Run, load, load_noisy_classifier
from cfg_jax.runtime import bulk, processes
from cfg_jax.runtime.files import atomic
from cfg_jax.runtime.mesh import device_mesh
from cfg_jax.sampling import grids
from cfg_jax.training import config as recipe
from cfg_jax.training import guided
from cfg_jax.training.conditions import of_examples

PURPOSE = """Samples images from a trained model, over all devices. --out ending in .png gives a
picture, a row a label; .npz gives arr_0 (uint8, NHWC) and arr_1 (labels), as guided-diffusion's
evaluator reads. The same seed gives the same images. Interrupted, the same command goes on where
it stopped."""

SAMPLING = ("steps", "solver", "grid", "v", "eta", "order", "clip", "percentile")
GUIDANCE = ("name", "low", "high", "hides", *guided.KNOBS)
"""The flags that stand for fields of the recipe's `sample` and `guidance`."""


def define(values: flags.FlagValues) -> None:
    """The flags that every command that samples has."""
    text, whole, real = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_float
    grid_names, spaces = ", ".join(grids.GRIDS), ", ".join(guided.SPACES)
    table: tuple[tuple[str, Any, Any, str], ...] = (
        ("workdir", text, None, "the run to sample from"),
        ("step", whole, None, "its checkpoint; the newest if not given"),
        ("steps", whole, None, "steps of the solver"),
        ("solver", text, None, f"one of {', '.join(recipe.SOLVERS)}; default brings its own grid"),
        ("grid", text, None, f"where the solver steps: one of {grid_names}"),
        ("v", real, None, "of ancestral: 0 is the smallest, 1 the largest reverse variance"),
        ("eta", real, None, "of ddim and dpmpp: 0 is deterministic, 1 fully stochastic"),
        ("order", whole, None, "of dpmpp and unipc: 1, 2 or 3"),
        ("clip", text, None, f"how x̂ is kept within [-1, 1]: one of {', '.join(guided.CLIPS)}"),
        ("percentile", real, None, "of dynamic clipping: of |x̂|, beyond which an image is shrunk"),
        ("guidance", text, None, f"one of {', '.join(guided.METHODS)}, with the knobs given here"),
        ("guidance.low", real, None, "of any: no guidance below this log-SNR"),
        ("guidance.high", real, None, "of any: no guidance from this log-SNR on"),
        ("guidance.cond", whole, None, "of negative: the label to move away from"),
        ("guidance.conds", text, None, "of composed: further labels, such as 3,5"),
        ("guidance.ws", text, None, "of composed: their weights, each times w; 1 if not given"),
        ("guidance.weak", text, None, "of autoguidance: a run, WORKDIR, WORKDIR:STEP or :STEP"),
        ("guidance.phi", real, None, "of rescaled: 0 is plain guidance, the paper's is 0.7"),
        ("guidance.space", text, None, f"of rescaled, zero_star: one of {spaces}"),
        ("guidance.eta", real, None, "of projected: the share that stays of what is along x̂"),
        ("guidance.norm_threshold", real, None, "of projected: the largest norm of a change of x̂"),
        ("guidance.hides", text, None, "of the condition: some of label, vector, small"),
        ("small-logsnr", real, None, "small images are noised to this log-SNR, if it learned that"),
        ("classifier", text, None, "the run of a noisy classifier, which guides as well"),
        ("classifier-form", text, "eps", "eps: it moves ε̂; mean: the mean of an ancestral step"),
        ("ema", real, None, "which moving average: a decay or width of the recipe's"),
        ("seed", whole, 0, "of the noise"),
        ("batch", whole, 256, "images at a time, over the devices of a process"),
    )
    recipes = {*SAMPLING, "guidance"}
    for name, kind, default, purpose in table:
        told = f"{purpose}; the recipe's if not given" if name in recipes else purpose
        kind(name, default, told, flag_values=values)


def loaded(values: dict[str, Any]) -> tuple[Run, NoisyClassifier | None]:
    """The run that the flags name, its recipe changed by those that say how to sample.

    Beside it, the classifier that is to guide it, or None.
    """
    run = load(flagging.required(values, "workdir"), step=values["step"], ema=values["ema"])
    for name in SAMPLING:
        if values[name] is not None:
            run.config.sample[name] = values[name]
    if values["small-logsnr"] is not None:
        run.config.sample.small_logsnr = values["small-logsnr"]
    if values["v"] is not None:
        run.config.sample.learned_v = False
    _set_guidance(run.config.guidance, values)
    checks.steps(run.config.sample.steps)
    recipe.check(run.config)
    run.guided(run.config.sample.w)  # a mistake shows before anything is made
    knobs = recipe.knobs(run.config)
    for name in ("v", "eta", "order"):
        if values[name] is not None and name not in knobs:
            raise ValueError(f"--{name} does not belong to --solver {run.config.sample.solver}")
    if values["percentile"] is not None and run.config.sample.clip != "dynamic":
        raise ValueError(f"--percentile does not belong to --clip {run.config.sample.clip}")
    if values["batch"] < 1:
        raise ValueError(f"--batch must be at least 1, got {values['batch']}")
    return run, _noisy(run, values)


def _noisy(run: Run, values: dict[str, Any]) -> NoisyClassifier | None:
    if values["classifier"] is None:
        for name, default in (("classifier-scale", None), ("classifier-form", FORMS[0])):
            if values[name] != default:
                raise ValueError(f"--{name} needs --classifier beside it")
        return None
    noisy = load_noisy_classifier(values["classifier"])
    run.check_classifier(noisy, values["classifier-form"])
    return noisy


def strengths(
    noisy: NoisyClassifier | None, values: dict[str, Any], *, w: float, scale: float
) -> dict[str, Any]:
    """How strongly what is to guide, as arguments of `Run.sample`."""
    if noisy is None:
        return {"w": w}
    form = values["classifier-form"]
    return {
        "w": w,
        "classifier": noisy.log_prob,
        "classifier_scale": scale,
        "classifier_form": form,
    }


def _set_guidance(chosen: ConfigDict, values: dict[str, Any]) -> None:
    """Changes a recipe's guidance as the flags say; another method begins with its own defaults."""
    if values["guidance"] is not None:
        fresh = recipe.default().guidance
        for name in ("name", "low", "high", *guided.KNOBS):
            chosen[name] = fresh[name]
        chosen.name = values["guidance"]
    lists = {"conds": (int, "labels"), "ws": (float, "numbers"), "hides": (str, "parts")}
    for name in GUIDANCE[1:]:
        given = values[f"guidance.{name}"]
        if given is not None and name in lists:
            kind, what = lists[name]
            given = flagging.listed(given, f"guidance.{name}", kind, what)
        if given is not None:
            chosen[name] = given


def run(argv: list[str]) -> None:
    """Parses the arguments, samples, and writes the file."""
    defined = flags.FlagValues()
    define(defined)
    flags.DEFINE_string(
        "labels", None, "such as 0-9 or 1,3,5-7; all if not given", flag_values=defined
    )
    flags.DEFINE_integer(
        "per-label", 8, "images a label; without labels, images", flag_values=defined
    )
    flags.DEFINE_float(
        "w",
        None,
        "guidance strength, 0 for none; the recipe's if not given, or 0 beside --classifier, where "
        "-1 makes the network unconditional",
        flag_values=defined,
    )
    flags.DEFINE_float(
        "classifier-scale", None, "the classifier's strength; 1 if not given", flag_values=defined
    )
    flags.DEFINE_string(
        "small",
        None,
        "for a network that enlarges: an .npz file of images and their labels, as this command "
        "writes it; held-out images of the run's data, made small, if not given",
        flag_values=defined,
    )
    flags.DEFINE_string(
        "vectors",
        None,
        "for a network that takes vectors: an .npz file of `vector`, and of `label` if it takes "
        "labels; those of held-out images if not given",
        flag_values=defined,
    )
    flags.DEFINE_string("data-path", None, "the images, if they have moved", flag_values=defined)
    flags.DEFINE_string("out", None, "the file to write, .png or .npz", flag_values=defined)
    flagging.define_processes(defined)
    values = flagging.parse(defined, "sample", PURPOSE, argv)
    out = Path(flagging.required(values, "out"))
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {out}")
    if values["per-label"] < 1:
        raise ValueError(f"--per-label must be at least 1, got {values['per-label']}")
    flagging.start_processes(values)
    source, noisy = loaded(values)
    w = values["w"]
    if w is None:
        w = source.config.sample.w if noisy is None else 0.0
    scale = 1.0 if values["classifier-scale"] is None else values["classifier-scale"]
    checks.finite("w", w)
    checks.finite("classifier-scale", scale)
    guiding = strengths(noisy, values, w=w, scale=scale)
    told, lent = _conditions(source, noisy, values)
    parts = out.with_name(out.name + ".parts")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with processes.together(lambda: "they go on where they stopped"):
            images = _images(source, noisy, values, told, guiding, parts)
    except KeyboardInterrupt:
        raise FailedError(
            f"interrupted; the same command goes on with {parts}", INTERRUPTED
        ) from None
    if images is not None:
        _write(out, images, told, lent, values["per-label"])
        bulk.discard(parts)
        print(f"{len(images)} images: {out}")


def _conditions(
    source: Run, noisy: NoisyClassifier | None, values: dict[str, Any]
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """All that the network is shown, by parts, one entry an image; and the images that lent it."""
    _check_guidable(source, noisy, values)
    parts = conditions.from_files(source, values)
    if values["data-path"] and (parts is not None or not source.network.takes_more_than_labels):
        raise ValueError("--data-path is where held-out images lend their conditions; none do here")
    if parts is not None:
        return parts, None
    if not source.network.takes_more_than_labels:
        labels = _labels(source, values, noisy)
        return ({} if labels is None else {"label": labels}), None
    data = conditions.held_out(source, values["data-path"])
    given = values["labels"]
    chosen = flagging.labels(given) if given else list(range(data.num_classes))
    if source.null is not None:
        source.check_labels(chosen)
    index = conditions.by_label(data, chosen, values["per-label"])
    return of_examples(source.network, [data.source[number] for number in index])


def _check_guidable(source: Run, noisy: NoisyClassifier | None, values: dict[str, Any]) -> None:
    """Raises ValueError for flags that an unguidable or unlabelled network has no use for."""
    guidable = source.nothing is not None or source.config.guidance.name == "autoguidance"
    labelled = source.null is not None or noisy is not None
    for name in (*(() if labelled else ("labels",)), *(() if guidable else ("guidance", "w"))):
        if values[name] is not None:
            raise ValueError(f"{source.workdir} is an unconditional model and takes no --{name}")


def _labels(
    source: Run, values: dict[str, Any], noisy: NoisyClassifier | None
) -> np.ndarray | None:
    """One label an image, each label `per-label` times."""
    if source.null is None and noisy is None:
        return None
    classifier = None if noisy is None else noisy.log_prob
    given = values["labels"]
    chosen = flagging.labels(given) if given else range(source.classes(classifier))
    source.check_labels(list(chosen), classifier=classifier)
    return np.repeat(np.asarray(chosen, np.int32), values["per-label"])


def _images(
    source: Run,
    noisy: NoisyClassifier | None,
    values: dict[str, Any],
    told: dict[str, np.ndarray],
    guiding: dict[str, Any],
    parts: Path,
) -> np.ndarray | None:
    """uint8 images, one an entry of the conditions; None in all processes but the first."""
    count = len(next(iter(told.values()))) if told else values["per-label"]
    batch = min(values["batch"], count)
    key, mesh = jax.random.key(values["seed"]), device_mesh(devices=jax.local_devices())
    labels, others = told.get("label"), {k: v for k, v in told.items() if k != "label"}

    def draw(offset, some):
        index = np.arange(offset, offset + batch) % count
        there: dict[str, Any] = {k: jnp.asarray(array[index]) for k, array in others.items()}
        if not told:
            there["batch"] = batch
        x = source.sample(key, some, offset=offset, mesh=mesh, **guiding, **there)
        return to_uint8(x)

    fields = recipe.flatten(source.config).items()
    settings = {
        **{name: v for name, v in fields if name.startswith(("sample.", "guidance."))},
        "sample.w": guiding["w"],
        "classifier": noisy and str(noisy.checkpoint),
        "classifier_scale": guiding.get("classifier_scale"),
        "classifier_form": guiding.get("classifier_form"),
        "checkpoint": str(source.checkpoint),
        "guidance.weak": source.weaker and str(source.weaker.checkpoint),
        "average": values["ema"],
        "seed": values["seed"],
        "labels": None if labels is None else labels.tolist(),
        **{part: hashlib.sha256(array.tobytes()).hexdigest() for part, array in others.items()},
    }
    return bulk.collect(
        draw, count=count, labels=labels, batch=batch, parts=parts, settings=settings
    )


def _write(
    out: Path,
    images: np.ndarray,
    told: dict[str, np.ndarray],
    lent: np.ndarray | None,
    columns: int,
) -> None:
    """A picture, what was enlarged above the samples and what lent it below; or an .npz file."""
    if out.suffix == ".png":
        columns = min(columns, len(images))
        rows = [images] if lent is None else [images, lent]
        if "small" in told:
            small = to_uint8(told["small"])
            rows.insert(0, enlarge(small, images.shape[1] // small.shape[1]))
        save_grid(out, interleave(rows, columns), columns)
        return
    arrays = [images, told["label"].astype(np.int64)] if "label" in told else [images]
    with atomic(out) as file:
        np.savez(file, *arrays)
