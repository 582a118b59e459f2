"""CIFAR-10 from a folder or zip of images: trained in stretches of minutes, then scored over w.

    python experiments/cifar10.py --data TRAIN --test TEST --workdir runs/cifar10 --minutes 25
        [--config.FIELD=VALUE ...]

TRAIN and TEST are folders or zip files with one folder of images a class. Each call trains for so
many minutes, saves, and goes on where the last one stopped; then it scores what there is, so that a
machine that is lent for half an hour at a time gets there in the end. --minutes 0 scores alone.

Scores over w: Inception score and Fréchet distance in the features of a small classifier of the
same images, which compare with each other alone. The samples stay in WORKDIR/scored, for
`python -m cfg_jax score`, whose figures are those of papers, with two reservations: papers take
50,000 samples (--samples 50000) and the original images, which JPEG files are not.

Writes the samples as a figure, and beside it as JSON the scores, images a second, and how much of
the device's own rate of matrix products the training reached. The recipe is `configs/cifar10.py`.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scoring
from ml_collections import ConfigDict

import cfg_jax
from cfg_jax import evaluation, recipe
from cfg_jax.data import Folder
from cfg_jax.data.media import medium
from cfg_jax.data.samples import to_uint8
from cfg_jax.evaluation.of_model import taken
from cfg_jax.evaluation.report import samples_figure
from cfg_jax.parts import Condition
from cfg_jax.planning import flops
from cfg_jax.runtime.files import atomic
from cfg_jax.training import metrics
from cfg_jax.training.loop import StoppedError, train

ROOT = Path(__file__).parents[1]
FIGURE = Path(__file__).parent / "figures" / "cifar10.png"
WS = (0.0, 0.1, 0.3, 1.0, 3.0)
IMAGE_SIZE = 32


def begun(workdir: Path) -> Callable[[], bool]:
    """Whether training has begun since: it writes its metrics anew before the first step."""

    def written() -> int | None:
        path = workdir / "metrics.jsonl"
        return path.stat().st_mtime_ns if path.exists() else None

    before = written()
    return lambda: written() != before


@contextlib.contextmanager
def stopped_after(minutes: float, ready: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Asks this process to stop, as a preemption notice does, when the time is over.

    Again every second, should nobody have listened.

    Args:
      minutes: The time.
      ready: Whether it has begun to pass.
    """
    ended = threading.Event()

    def ask():
        while not ready():
            if ended.wait(0.2):
                return
        wait = 60.0 * minutes
        while not ended.wait(wait):
            os.kill(os.getpid(), signal.SIGTERM)
            wait = 1.0

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield
    except StoppedError as stopped:
        print(stopped)
    finally:
        ended.set()
        asking.join()
        signal.signal(signal.SIGTERM, before)


def speed(workdir: Path) -> float:
    """Images a second of training, the median of the logged windows."""
    rows = metrics.read(workdir / "metrics.jsonl")
    measured = [row["images_per_second"] for row in rows if row["images_per_second"]]
    return float(np.median(measured)) if measured else float("nan")


def utilisation(
    model: cfg_jax.Model, cond: Condition, images_per_second: float
) -> dict[str, float]:
    """What training reaches of the devices' rate of matrix products, counting 3 forward passes.

    Args:
      model: The model.
      cond: The condition of one image.
      images_per_second: Of training.
    """
    z, logsnr = jnp.zeros((1, *model.shape)), jnp.zeros(1)
    forward = jax.jit(lambda denoiser, *asked: denoiser(*asked))
    per_image = 3.0 * flops.count(forward.trace(model.denoiser, z, logsnr, cond).jaxpr)
    apart = 1 if jax.default_backend() == "cpu" else jax.device_count()
    rate = apart * flops.matmul_rate(model.network.dtype)  # a processor's share its cores
    return {
        "training FLOPs an image": per_image,
        "matrix products, FLOPs a second": rate,
        "of that reached": per_image * images_per_second / rate,
    }


def score(
    run: cfg_jax.Run,
    judge: evaluation.Judge,
    asked: evaluation.Asked,
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, float]], dict[float, np.ndarray]]:
    """The scores of each w, and its first images; all of them are kept in WORKDIR/scored."""
    folder = run.workdir / "scored"
    folder.mkdir(exist_ok=True)
    examples = {}

    def keep(w: float, x: np.ndarray) -> None:
        with atomic(folder / f"w_{w:g}.npz") as file:
            np.savez(file, to_uint8(x), asked.labels)
        examples[w] = x[: len(asked.titles)]

    sample = evaluation.sampler(
        run,
        asked.entries,
        {w: {"w": w, "steps": arguments.steps} for w in WS},
        seed=arguments.seed,
        batch=arguments.batch,
        mesh=scoring.mesh_for(len(asked.labels), arguments.batch),
    )
    rows = evaluation.sweep(
        sample, judge.scorer, judge.real, labels=asked.labels, ws=WS, on_samples=keep
    )
    return list(map(dataclasses.asdict, rows)), examples


def table(report: Mapping[str, Any]) -> str:
    """The scores of each w, in Markdown."""
    rows = [((f"{row['w']:g}",), row) for row in report["rows"]]
    real = [(("real training images",), report["real training images"])]
    return scoring.table(["w"], rows + real)


def recipe_of(arguments: argparse.Namespace, changes: list[str]) -> ConfigDict:
    """The recipe, its images those of the folders."""
    folders = {"path": str(arguments.data), "test_path": str(arguments.test)}

    def adapt(config: ConfigDict) -> None:
        known = {field.name for field in dataclasses.fields(Folder)}
        own = {name: value for name, value in config.data.items() if name in known}
        size = own.get("image_size") or IMAGE_SIZE
        config.data = recipe.node(Folder, **{**own, **folders, "image_size": size})

    return scoring.recipe_of(arguments.config, changes, adapt)


def main(argv: list[str] | None = None) -> None:
    """Trains for a while, scores, prints the table, and writes figure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="--config.FIELD=VALUE changes a field of the recipe.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, required=True, help="training images, by class")
    parser.add_argument("--test", type=Path, required=True, help="held-out images, by class")
    parser.add_argument("--workdir", type=Path, required=True, help="of the run")
    parser.add_argument("--minutes", type=float, default=25.0, help="of training (default: 25)")
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs" / "cifar10.py", help="the recipe"
    )
    scoring.add_arguments(parser, out=FIGURE, steps=50)
    arguments, changes = parser.parse_known_args(argv)
    scoring.check_arguments(parser, arguments)
    if not arguments.minutes >= 0:
        parser.error(f"--minutes must be at least 0, got {arguments.minutes:g}")
    cfg_jax.use_cores()
    try:
        config = recipe_of(arguments, changes)
        if arguments.minutes:
            with stopped_after(arguments.minutes, begun(arguments.workdir)):
                train(config, arguments.workdir)
        run = cfg_jax.load(arguments.workdir)
        data = scoring.splits(config)
        judge = evaluation.judge_of(*data)
        asked = evaluation.asked(run, data[1], arguments.samples)
    except ValueError as error:
        parser.error(str(error))
    rows, examples = score(run, judge, asked, arguments)
    images_per_second = speed(arguments.workdir)
    first = run.condition(taken(asked.entries, np.arange(1)))
    report = {
        "rows": rows,
        "real training images": dataclasses.asdict(judge.training),
        "classifier's held-out accuracy": judge.scorer.held_out_accuracy,
        "training images a second": images_per_second,
        **utilisation(run, first, images_per_second),
        "settings": {
            "training steps": run.step,
            "batch": config.train.batch_size,
            "samples": arguments.samples,
            "steps": arguments.steps,
            "seed": arguments.seed,
            "devices": [device.device_kind for device in jax.devices()],
        },
    }
    print(table(report))
    print(f"{images_per_second:.4g} images a second, {report['of that reached']:.0%} of the rate")
    figure = samples_figure(medium(run.facts), examples, asked.titles, beside=asked.beside)
    scoring.write(arguments.out, figure, report)


if __name__ == "__main__":
    main()
