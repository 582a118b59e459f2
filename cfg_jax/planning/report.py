"""A plan in words and tables, as Markdown, and what would help where it does not fit."""

import itertools
from collections.abc import Iterable, Sequence

from cfg_jax.planning.analysis import Analysis
from cfg_jax.planning.chips import GIB
from cfg_jax.planning.hlo import KINDS
from cfg_jax.planning.plan import Plan
from cfg_jax.planning.roofline import roofline
from cfg_jax.planning.search import Trial

UTILISATIONS = (1.0, 0.4)
"""Parts of the peak that times are told for: the bound, and what a good program reaches."""

SAMPLES = 50_000
"""Images that a Fréchet distance is usually taken over."""

_DAY = 86_400


def markdown(plan: Plan, *, title: str, trials: Sequence[Trial] = ()) -> str:
    """The whole report.

    Args:
      plan: The plan.
      title: What was planned.
      trials: The search that led to it, if there was one.
    """
    parts = [f"# {title} on {plan.topology.name}", _setting(plan)]
    if trials:
        parts.append(_searched(plan, trials))
    parts += [f"## Training: {_verdict(plan, plan.training)}", _training(plan)]
    if plan.training.fits:
        parts.append(_collectives(plan.training))
    else:
        parts.append("What would help:\n\n" + "\n".join(f"- {line}" for line in advice(plan)))
    if plan.sampling:
        parts += [f"## Sampling: {_verdict(plan, plan.sampling)}", _sampling(plan, plan.sampling)]
    parts.append(_notes(plan))
    return "\n\n".join(parts) + "\n"


def advice(plan: Plan) -> list[str]:
    """What would help a training step that does not fit, and how much, where that is known."""
    over = plan.training.used - plan.topology.chip.hbm
    state, config = sum(plan.state.values()), plan.config
    kept = state + plan.frozen
    lines = []
    fsdp = _enough_fsdp(plan, over)
    if fsdp:
        saved = state - plan.state_split(fsdp)
        lines.append(
            f"`--config.mesh.fsdp={fsdp}`: {_gib(saved)} less for parameters, averages and "
            "optimiser, split over so many chips; no arithmetic more"
        )
    parts = next((n for n in range(2, plan.images + 1) if plan.images % n == 0), None)
    if parts:
        lines.append(
            f"`--config.train.accumulate={parts * config.train.accumulate}`: the same batch in "
            f"more parts; about {_gib((plan.training.used - kept) * (1 - 1 / parts))} less"
        )
    if config.network.get("remat", "blocks") != "blocks":
        lines.append(
            "`--config.network.remat=products` (hardly any arithmetic more) or `=blocks` (about a "
            "sixth more): activations are computed again instead of kept"
        )
    lines.append("a smaller batch, or more chips; `--search` finds the largest batch that fits")
    return lines


def _enough_fsdp(plan: Plan, over: float) -> int | None:
    """The smallest mesh.fsdp that saves what is over, or else the largest that saves anything."""
    state, chips = sum(plan.state.values()), len(plan.topology.devices)
    useful = None
    for fsdp in range(plan.config.mesh.fsdp + 1, chips + 1):
        if chips % fsdp:
            continue
        saved = state - plan.state_split(fsdp)
        if saved >= over:
            return fsdp
        useful = fsdp if saved > 0 else useful
    return useful


def _setting(plan: Plan) -> str:
    config, topology = plan.config, plan.topology
    chip, chips = topology.chip, len(topology.devices)
    train, fsdp = config.train, config.mesh.fsdp
    network, classes = config.network, len(plan.facts.class_names)
    data = "×".join(map(str, plan.facts.shape)) + (f", {classes:,} classes" if classes else "")
    return (
        f"{chips:,} chips of {chip.name} ({chip.flops / 1e12:g} TFLOP/s in bfloat16, "
        f"{chip.hbm / GIB:g} GiB that a program can have, {chip.bandwidth / 1e9:g} GB/s of memory, "
        f"{chip.links / 1e9:g} GB/s sent), as data {chips // fsdp} × fsdp {fsdp}. "
        f"{plan.parameters / 1e6:,.1f} M parameters, data of {data}. "
        f"Batch {train.batch_size:,}: {plan.images:,} images a chip at a time, accumulate "
        f"{train.accumulate}; {network.get('dtype', 'float32')}, "
        f"remat {network.get('remat', 'none')}."
    )


def _verdict(plan: Plan, analysis: Analysis) -> str:
    left = plan.topology.chip.hbm - analysis.used
    if analysis.fits:
        return f"it fits, with {_gib(left)} a chip to spare"
    return f"it does not fit, by {_gib(-left)} a chip"


def _training(plan: Plan) -> str:
    config, training = plan.config, plan.training
    held = plan.state | ({"frozen parameters": plan.frozen} if plan.frozen else {})
    rest = training.used - sum(held.values())
    rows = [
        ("memory used", _of(plan, training)),
        *((f"· {part}", _gib(count)) for part, count in held.items()),
        ("· all else: activations, gradients, batch, code", _gib(rest)),
        ("FLOPs a step, all chips", _flops(training.flops)),
        ("FLOPs an image", _flops(training.flops / config.train.batch_size)),
    ]
    if training.fits:
        steps, batch = config.train.steps, config.train.batch_size
        rows += _speed(plan, training)
        for u in UTILISATIONS:
            seconds = roofline(training, plan.topology).seconds(u)
            rows.append((f"images a second at {u:.0%} of the peak", f"{batch / seconds:,.0f}"))
            rows.append((f"{steps:,} steps at {u:.0%}", f"{steps * seconds / _DAY:,.2f} days"))
    return _table(("a step, on one chip", ""), rows)


def _sampling(plan: Plan, sampling: Analysis) -> str:
    rows = [
        ("images at a time, all chips", f"{plan.samples:,}"),
        ("memory used", _of(plan, sampling)),
        (
            f"FLOPs an image, {plan.config.sample.steps} steps",
            _flops(sampling.flops / plan.samples),
        ),
    ]
    if sampling.fits:
        rows += _speed(plan, sampling)
        for u in UTILISATIONS:
            rate = plan.samples / roofline(sampling, plan.topology).seconds(u)
            rows.append((f"images a second at {u:.0%} of the peak", f"{rate:,.1f}"))
            rows.append((f"{SAMPLES:,} images at {u:.0%}", f"{SAMPLES / rate / 60:,.1f} minutes"))
    return _table(("a batch, on one chip", ""), rows)


def _speed(plan: Plan, analysis: Analysis) -> list[tuple[str, str]]:
    """Traffic, intensity and the roofline."""
    chip, line = plan.topology.chip, roofline(analysis, plan.topology)
    intensity = analysis.flops / len(plan.topology.devices) / analysis.accessed
    balance = chip.flops / chip.bandwidth
    times = ", ".join(f"{name} {_seconds(t)}" for name, t in line._asdict().items())
    return [
        ("bytes from and to memory", _bytes(analysis.accessed)),
        ("bytes sent to other chips", _bytes(analysis.sent)),
        ("FLOPs a byte of memory", f"{intensity:,.0f}; the chip's balance is {balance:,.0f}"),
        ("least time", f"{times}: bound by {line.bound}"),
    ]


def _collectives(analysis: Analysis) -> str:
    """One row a kind and group."""

    def key(c):
        return KINDS.index(c.kind), c.group

    rows = []
    for (kind, group), found in itertools.groupby(sorted(analysis.collectives, key=key), key):
        here = list(found)
        rows.append(
            (
                KINDS[kind],
                str(group),
                f"{sum(c.runs for c in here):,}",
                f"{sum(c.runs * len(c.arrays) for c in here):,}",
                _bytes(sum(c.runs * c.bytes for c in here)),
                _bytes(sum(c.runs * c.sent for c in here)),
            )
        )
    if not rows:
        return "The chips send each other nothing."
    return _table(("collective", "chips", "a step", "arrays", "their bytes", "sent a chip"), rows)


def _searched(plan: Plan, trials: Sequence[Trial]) -> str:
    chips = len(plan.topology.devices) * plan.config.train.accumulate
    rows = [
        (
            f"{t.images * chips:,}",
            f"{t.images:,}",
            _gib(t.used),
            "" if t.predicted is None else _gib(t.predicted),
            "fits" if t.fits else "does not fit",
        )
        for t in trials
    ]
    head = ("batch", "a chip at a time", "memory", "foretold from those before", "")
    return "## Search for the largest batch\n\n" + _table(head, rows)


def _notes(plan: Plan) -> str:
    made = plan.training
    return (
        "FLOPs are those of convolutions and matrix products, what remat computes again among "
        "them. Memory traffic is that of the compiled program's operations, of each once. "
        "Times are bounds, not promises: nothing was run.\n\n"
        f"Compiled {made.date} with {made.compiler}; the training step took "
        f"{made.seconds:,.0f} s to compile."
    )


def _of(plan: Plan, analysis: Analysis) -> str:
    return f"{_gib(analysis.used)} of {_gib(plan.topology.chip.hbm)}"


def _gib(count: float) -> str:
    return f"{count / GIB:,.2f} GiB"


def _flops(count: float) -> str:
    return _scaled(count, ("", "K", "M", "G", "T", "P", "E"), "FLOP")


def _bytes(count: float) -> str:
    return _scaled(count, ("", "k", "M", "G", "T"), "B")


def _scaled(count: float, prefixes: Sequence[str], unit: str) -> str:
    power = 0
    while count >= 1000 and power + 1 < len(prefixes):
        count, power = count / 1000, power + 1
    return f"{count:.3g} {prefixes[power]}{unit}"


def _seconds(time: float) -> str:
    return f"{time:,.2f} s" if time >= 1 else f"{1e3 * time:,.3g} ms"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned so that it reads as it is."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        first, *others = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join([first, *others])} |"

    rule = (
        "| "
        + " | ".join(
            "-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths)
        )
        + " |"
    )
    return "\n".join([row(lines[0]), rule, *map(row, lines[1:])])
