"""What a compiled program sends between chips, and moves to and from memory, read from its text.

The text is that of XLA's optimised HLO, one instruction a line, in computations that call each
other. The TPU compiler writes one collective more than once, under one channel, where it runs
beside other work, and a reduce-scatter as a fusion "all-reduce-scatter" of all-reduce and slices.
An array whose layout has a space, as S(1), lies on the chip and not in its memory.
"""

import dataclasses
import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*?)\)")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_PLACED = re.compile(rf"({_ARRAY.pattern})(\{{[^}}]*\}})?")

# They move no data of their own.
_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}

# They read no more of an array than they return.
_SLICES = {"slice", "dynamic-slice", "gather"}

# These call what runs on its own; every other caller (a fusion, a reduction) works as one.
_CONTROL = {"while", "call", "conditional"}


class _Instruction(NamedTuple):
    """One line: its name, the type of its result, its operation, that one's operands, all of it."""

    name: str
    result: str
    operation: str
    operands: list[str]
    line: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
      kind: One of `KINDS`.
      arrays: What is reduced, gathered or sent, whole, as "bf16[3,3,64,64]".
      group: How many chips take part together.
      runs: How often it runs in one call of the program.
    """

    kind: str
    arrays: tuple[str, ...]
    group: int
    runs: int

    @property
    def bytes(self) -> int:
        """Of the whole arrays, of one run."""
        return sum(map(size, self.arrays))

    @property
    def sent(self) -> float:
        """Bytes that a chip sends in one run, on a ring: all but its own share of the arrays.

        An all-reduce is a reduce-scatter and an all-gather (Patarasuk & Yuan 2009, "Bandwidth
        optimal all-reduce algorithms for clusters of workstations", Section 3).
        """
        if self.kind == "collective-permute":
            return self.bytes
        passes = 2 if self.kind == "all-reduce" else 1
        share = 1 / self.group if self.kind == "all-to-all" else 1
        return passes * share * self.bytes * (self.group - 1) / self.group


def size(array: str) -> int:
    """Bytes of an array such as "bf16[3,3,64,64]"."""
    match = _ARRAY.fullmatch(array)
    if not match:
        raise ValueError(f"{array!r} is no array's type")
    bits = re.search(r"\d+", match[1])
    entries = math.prod(int(n) for n in match[2].split(",") if n)
    return math.ceil(entries * (int(bits[0]) if bits else 8) / 8)


def collectives(text: str, chips: int) -> list[Collective]:
    """All collectives of a program, each once.

    Args:
      text: The HLO.
      chips: How many run it; those that a collective without groups is over.
    """
    computations, entry = _computations(text)
    runs = _runs(computations, entry)
    found: dict[tuple[str, str], Collective] = {}
    for name, instructions in computations.items():
        for number, instruction in enumerate(instructions):
            kind = instruction.operation.removesuffix("-start")
            if kind not in KINDS or not runs[name]:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.line)
            group = _group(instruction.line, chips)
            arrays = _whole(instruction, kind, group)
            if name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            key = kind, channel[1] if channel else f"{name} {number}"
            found.setdefault(key, Collective(kind, arrays, group, runs[name]))
    return [c for c in found.values() if c.group > 1]


def traffic(text: str) -> int:
    """Bytes that one call of a program moves between memory and chip, its loops run through.

    An operation reads its operands and writes its results once, as far as they lie in memory; what
    happens within a fusion stays on the chip.
    """
    computations, entry = _computations(text)
    runs = _runs(computations, entry, through=_CONTROL)
    moved = 0
    for name, times in runs.items():
        types = {i.name: i.result for i in computations[name]}
        moved += times * sum(_moved(i, types) for i in computations[name])
    return moved


def _moved(instruction: _Instruction, types: dict[str, str]) -> int:
    """Bytes between memory and chip of one instruction, among others of the given results.

    One that takes its time reads when it starts, and has written when it is done.
    """
    operation, results = instruction.operation, _placed(instruction.result)
    if operation in _NOTHING | _CONTROL:
        return 0
    if operation.endswith("-done"):
        return _in_memory(results)
    read = [array for name in instruction.operands for array in _placed(types.get(name, ""))]
    if operation.endswith("-start"):
        results = results[len(read) :]  # after the operands, which lead
    if operation.removesuffix("-start") in _SLICES:
        read = [(min(count, results[0][0]), memory) for count, memory in read]
    return _in_memory(read) + (0 if operation.endswith("-start") else _in_memory(results))


def _in_memory(arrays: list[tuple[int, bool]]) -> int:
    return sum(count for count, memory in arrays if memory)


def _placed(types: str) -> list[tuple[int, bool]]:
    """Bytes of each array of a type, and whether it lies in memory."""
    return [(size(m[1]), "S(" not in (m[4] or "")) for m in _PLACED.finditer(types)]


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Instructions by computation, and the name of the one that is called."""
    found: dict[str, list[_Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            entry = name if header[1] else entry
            found[name] = []
        elif name and (match := _INSTRUCTION.match(line)):
            operands = re.findall(r"%([\w.\-]+)", match[4])
            found[name].append(_Instruction(match[1], match[2], match[3], operands, line))
    return found, entry


def _runs(
    computations: dict[str, list[_Instruction]], entry: str, through: set[str] | None = None
) -> dict[str, int]:
    """How often each computation runs in one call of the entry, through all calls or some kinds."""
    runs: dict[str, int] = defaultdict(int)

    def walk(name: str, times: int) -> None:
        runs[name] += times
        for instruction in computations.get(name, ()):
            if through is not None and instruction.operation not in through:
                continue
            called = _CALLED.findall(instruction.line)
            for branches in _BRANCHES.findall(instruction.line):
                called += [branch.strip(" %") for branch in branches.split(",")]
            trips = _trips(instruction, computations) if instruction.operation == "while" else 1
            for inner in called:
                walk(inner, times * trips)

    walk(entry, 1)
    return runs


def _trips(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int:
    """How often a loop runs: as the compiler says, or up to the one number its condition has."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    limits = [
        int(limit[1])
        for instruction in computations.get(condition[1] if condition else "", ())
        if (limit := re.search(r" s32\[\]\S* constant\((\d+)\)", instruction.line))
    ]
    return limits[0] if len(limits) == 1 else 1


def _group(line: str, chips: int) -> int:
    """How many chips a collective joins."""
    # mesh['axis_0'=16,'axis_1'=16], device_ids=([16,16]T(1,0)) {'axis_1'}, the middle if any; a
    # part of an axis is 'axis_0':(1)4
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sides[axis]) for axis, part in axes)
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed[1].count(",") + 1
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return pairs[1].count("{")
    return chips


def _whole(instruction: _Instruction, kind: str, group: int) -> tuple[str, ...]:
    """The arrays of a collective before they are split or after they are gathered."""
    arrays = [match[0] for match in _ARRAY.finditer(instruction.result)]
    if instruction.operation.endswith("-start") and kind in ("all-gather", "collective-permute"):
        arrays = [a for a in arrays if a != "u32[]"]
        arrays = arrays[len(arrays) // 2 :]  # operands, then results
    return tuple(arrays) * (group if kind == "reduce-scatter" else 1)
