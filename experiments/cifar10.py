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
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scoring
from ml_collections import ConfigDict
from tqdm import tqdm

import cfg_jax
from cfg_jax.data.images import to_uint8
from cfg_jax.evaluation.report import samples_figure
from cfg_jax.planning import flops
from cfg_jax.run import Run
from cfg_jax.runtime.files import atomic
from cfg_jax.runtime.mesh import device_mesh
from cfg_jax.training import config as recipes
from cfg_jax.training import metrics
from cfg_jax.training.loop import StoppedError, train

ROOT = Path(__file__).parents[1]
FIGURE = Path(__file__).parent / "figures" / "cifar10.png"
WS = (0.0, 0.1, 0.3, 1.0, 3.0)
COLUMNS = 10
"""Images in a row of the figure."""


@contextlib.contextmanager
def stopped_after(minutes: float) -> Iterator[None]:
    """Asks this process to stop, as a preemption notice does, when the time is over.

    Again every second: while training is still getting ready, nobody listens.
    """
    ended = threading.Event()

    def ask():
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


def utilisation(config: ConfigDict, run: Run, images_per_second: float) -> dict[str, float]:
    """What training reaches of the devices' rate of matrix products, counting 3 forward passes."""
    z, logsnr, cond = run.network.inputs(run.shape)
    forward = jax.jit(run.network.apply).trace(run.params, z, logsnr, cond)
    per_image = 3.0 * flops.count(forward.jaxpr)
    rate = jax.device_count() * flops.matmul_rate(recipes.DTYPES[config.model.dtype])
    return {
        "training FLOPs an image": per_image,
        "matrix products, FLOPs a second": rate,
        "of that reached": per_image * images_per_second / rate,
    }


def score(
    run: Run, judge: scoring.Judge, arguments: argparse.Namespace
) -> tuple[list[dict[str, float]], dict[float, np.ndarray]]:
    """The scores of each w, and its first images; all of them are kept in WORKDIR/scored."""
    labels, key = np.arange(arguments.samples) % run.classes(), jax.random.key(arguments.seed)
    walk = {"steps": arguments.steps, "mesh": device_mesh(devices=jax.local_devices())}
    folder = run.workdir / "scored"
    folder.mkdir(exist_ok=True)
    rows, examples = [], {}
    for w in tqdm(WS, desc="guidance strengths", unit="w"):
        x = scoring.drawn(
            lambda some, start, w=w: run.sample(key, some, w=w, offset=start, **walk),
            labels,
            batch=arguments.batch,
        )
        with atomic(folder / f"w_{w:g}.npz") as file:
            np.savez(file, to_uint8(x), labels)
        examples[w] = x[:COLUMNS]
        rows.append({"w": w, **judge.scores(x, labels)})
    return rows, examples


def table(report: Mapping[str, Any]) -> str:
    """The scores of each w, in Markdown."""
    rows = [((f"{row['w']:g}",), row) for row in report["rows"]]
    real = [(("real training images",), report["real training images"])]
    return scoring.table(["w"], rows + real)


def recipe_of(arguments: argparse.Namespace, changes: list[str]) -> ConfigDict:
    """The recipe, its images those of the folders."""
    config = scoring.recipe_of(arguments.config, changes)
    config.data.name, config.data.path = "folder", str(arguments.data)
    config.data.test_path = str(arguments.test)
    config.data.image_size = config.data.image_size or 32
    return config


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
    try:
        config = recipe_of(arguments, changes)
        if arguments.minutes:
            with stopped_after(arguments.minutes):
                train(config, arguments.workdir)
        run = cfg_jax.load(arguments.workdir)
        judge = scoring.judge_of(config.data, arguments.workdir / "evaluation")
    except ValueError as error:
        parser.error(str(error))
    rows, examples = score(run, judge, arguments)
    images_per_second = speed(arguments.workdir)
    report = {
        "rows": rows,
        "real training images": judge.training,
        "classifier's held-out accuracy": judge.scorer.held_out_accuracy,
        "training images a second": images_per_second,
        **utilisation(config, run, images_per_second),
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
    titles = run.class_names[:COLUMNS]
    scoring.write(arguments.out, samples_figure(examples, titles), report)


if __name__ == "__main__":
    main()
