"""What a compiled program does on one device: products, collectives, kernels, cycles, array sizes; loops counted out.

XLA's own cost analysis counts a loop's body once; here every instruction counts as often as it runs.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%([\w.\-]+)")
_INDEX = re.compile(r"index=(\d+)")
_NUMBER = re.compile(r"^(\d+)\)")
_CONTRACTED = re.compile(r'lhs_contracting_dim(s=\{[\d,]*\}|ensions":\[[\d",]*\])')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TILES = re.compile(r"([a-z]\w*)\[([\d,]+)\]\{([\d,]+):T\((\d+),(\d+)\)")
_LAUNCHED = ("fusion", "custom-call", "copy", "sort", "scatter", "dot", "reduce", "convolution", "dynamic-update-slice")
"""What a GPU runs as a kernel of its own, outside of fusions."""
_NOT_LAUNCHED = ("AllocateBuffer", "Sharding", "annotate_device_placement")
_COLLECTIVE = re.compile(r"^(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(-start)?$")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`arrays` are the dtypes and shapes of what it makes; `times` how often it runs at most: in the longest branch."""

    name: str
    operation: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    rest: str
    times: float

    @property
    def bytes(self) -> int:
        return _size(self.arrays)


class Told(NamedTuple):
    """An instruction that a device is given, with the rest of its line, and how often."""

    operation: str
    rest: str
    times: float


class Work(NamedTuple):
    """`kernels` that a GPU launches; `cycles` that a TPU's compiler reckons with for its own choices, or 0."""

    kernels: float
    cycles: float


class Program:
    """The compiled program of one device, from its text (`Compiled.as_text()`)."""

    def __init__(self, text: str, open_loops: int = 1):
        """`open_loops` is how often a loop runs whose end depends on its data."""
        self._computations: dict[str, list[tuple[str, str, str, str]]] = {}
        current: list | None = None
        entry = ""
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                current = self._computations.setdefault(found[1], [])
                entry = found[1] if line.startswith("ENTRY") else entry
            elif current is not None and (found := _INSTRUCTION.match(line)):
                current.append((found[1], found[2], found[3], found[4]))
        self._open_loops, self._entry = open_loops, entry
        self._instructions = {name: (operation, rest) for name, _, operation, rest in self._all()}
        self.instructions = list(self._run(entry, 1.0))
        self._made = {name: _arrays(made) for name, made, _, _ in self._all()}

    def _run(self, computation: str, times: float) -> Iterator[Instruction]:
        for name, made, operation, rest in self._computations[computation]:
            yield Instruction(name, operation, _arrays(made), rest, times)
            inner = times * (self._trips(rest) if operation == "while" else 1)
            for each in self._taken(operation, rest):
                yield from self._run(each, inner)

    def _taken(self, operation: str, rest: str) -> list[str]:
        """The computations that an instruction calls, and of a conditional's branches that which makes most bytes."""
        called = list(_called(rest))
        return [max(called, key=self._made_in)] if operation == "conditional" else called

    def _made_in(self, computation: str) -> int:
        """Bytes of all that a computation makes, loops as often as they run."""
        total = 0
        for _, made, operation, rest in self._computations[computation]:
            times = self._trips(rest) if operation == "while" else 1
            total += _size(_arrays(made)) + times * sum(map(self._made_in, _called(rest)))
        return total

    def _trips(self, rest: str) -> int:
        """How often a loop runs: as the compiler says, or from where its counter begins to what it is compared with."""
        if said := _TRIPS.search(rest):
            return int(said[1])
        condition = _CONDITION.search(rest)
        bounds = set(self._constants(condition[1])) if condition else set()
        if condition is None or len(bounds) != 1:  # of several it does not say which is the counter's
            return self._open_loops
        return bounds.pop() - self._start(rest, condition[1])

    def _start(self, rest: str, condition: str) -> int:
        """What the counter is at first that a loop's condition reads; 0 where the program does not say."""
        read = (
            _INDEX.search(of_condition)
            for _, made, operation, of_condition in self._computations[condition]
            if operation == "get-tuple-element" and made.startswith("s32[]")
        )
        counter = next((int(found[1]) for found in read if found), None)
        if counter is None:
            return 0
        state = self._instructions[_names(rest)[0]]
        operation, operands = self._instructions[_names(state[1])[counter]] if state[0] == "tuple" else state
        while operation == "copy":
            operation, operands = self._instructions[_names(operands)[0]]
        number = _NUMBER.match(operands)
        return int(number[1]) if operation == "constant" and number else 0

    def _constants(self, computation: str) -> list[int]:
        """The integers above 1 in a computation and in those that it calls."""
        found = []
        for _, made, operation, rest in self._computations[computation]:
            if operation == "constant" and made.startswith("s32[]") and (number := _NUMBER.match(rest)):
                found.append(int(number[1]))
            for each in _called(rest):
                found += self._constants(each)
        return [number for number in found if number > 1]

    def _told(self, computation: str, times: float = 1.0) -> Iterator[Told]:
        """What a device is told to do, one after the other: what is inside of fusions is a part of theirs."""
        for _, _, operation, rest in self._computations[computation]:
            yield Told(operation, rest, times)
            if operation == "while":
                yield from self._told(_body(rest), times * self._trips(rest))
            elif operation in ("call", "conditional"):
                for each in self._taken(operation, rest):
                    yield from self._told(each, times)

    @property
    def work(self) -> Work:
        """All of it."""
        return _sum(self._told(self._entry))

    @property
    def work_of_a_turn(self) -> Work:
        """Of the outermost loop that most of the work is in, one turn: of sampling, a token; none without a loop.

        Work is by cycles where a program has them, and else by kernels.
        """
        loops = [(0, Work(0, 0))]
        for operation, rest, times in self._told(self._entry):
            if operation == "while" and times == 1:
                loops.append((self._trips(rest), _sum(self._told(_body(rest)))))
        return max(loops, key=lambda loop: (loop[0] * loop[1].cycles, loop[0] * loop[1].kernels))[1]

    @property
    def flops(self) -> float:
        """Of all matrix products: two for each multiplication and addition."""
        total = 0.0
        for instruction in self._products:
            left = self._made[_names(instruction.rest)[0]][0][1]
            found = _CONTRACTED.search(instruction.rest)
            contracted = [left[int(axis)] for axis in re.findall(r"\d+", found[0])] if found else []
            total += 2 * math.prod(instruction.arrays[0][1]) * math.prod(contracted) * instruction.times
        return total

    @property
    def product_bytes(self) -> float:
        """Of the operands and results of all matrix products, each counted where it is used."""
        total = 0.0
        for instruction in self._products:
            operands = [array for name in _names(instruction.rest)[:2] for array in self._made[name]]
            total += instruction.times * (_size(instruction.arrays[:1]) + _size(operands))  # a library's has room, too
        return total

    @property
    def _products(self) -> list[Instruction]:
        """Those that the compiler makes itself, and those that it leaves to a GPU's library."""
        return [
            instruction
            for instruction in self.instructions
            if instruction.operation == "dot" or 'custom_call_target="__cublas$' in instruction.rest
        ]

    @property
    def collectives(self) -> list[Instruction]:
        return [instruction for instruction in self.instructions if _COLLECTIVE.match(instruction.operation)]

    def collective_bytes(self) -> Counter[str]:
        """Bytes that each kind of collective makes on this device, as often as it runs."""
        total: Counter[str] = Counter()
        for instruction in self.collectives:
            total[instruction.operation.removesuffix("-start")] += int(instruction.bytes * instruction.times)
        return total

    @property
    def padding(self) -> float:
        """The most bytes that the state of one loop takes beyond its values, where a TPU's tiles are not full."""
        states = [made for _, made, operation, _ in self._all() if operation == "while"]
        return max((sum(_padding(made)) for made in states), default=0.0)

    def _all(self) -> Iterator[tuple[str, str, str, str]]:
        for computation in self._computations.values():
            yield from computation

    def arrays_with(self, size: int) -> list[Instruction]:
        """What makes an array that has an axis of this size."""
        return [each for each in self.instructions if any(size in shape for _, shape in each.arrays)]


def _called(rest: str) -> Iterator[str]:
    """The computations that an instruction calls."""
    for called, branches in _CALLED.findall(rest):
        yield from [called] if called else re.findall(r"%([\w.\-]+)", branches)


def _body(rest: str) -> str:
    found = re.search(r"body=%([\w.\-]+)", rest)
    assert found is not None
    return found[1]


def _sum(told: Iterable[Told]) -> Work:
    kernels = cycles = 0.0
    for operation, rest, times in told:
        is_kernel = operation in _LAUNCHED and not any(f'custom_call_target="{name}' in rest for name in _NOT_LAUNCHED)
        kernels += times * is_kernel
        said = _CYCLES.search(rest)
        cycles += times * int(said[1]) if said else 0
    return Work(kernels, cycles)


def _padding(made: str) -> Iterator[int]:
    """Of each array its bytes beyond its values: the last two axes of its layout are rounded up to whole tiles."""
    for dtype, sizes, order, rows, lanes in _TILES.findall(made):
        shape, minor_first = [int(size) for size in sizes.split(",")], [int(axis) for axis in order.split(",")]
        if len(shape) < 2:
            continue
        padded = list(shape)
        for axis, tile in zip(minor_first, (int(lanes), int(rows)), strict=False):
            padded[axis] = -(-shape[axis] // tile) * tile
        yield (math.prod(padded) - math.prod(shape)) * _BYTES.get(dtype, 4)


def _size(arrays: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    return sum(math.prod(shape) * _BYTES.get(dtype, 4) for dtype, shape in arrays)


def _names(operands: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", operands)


def _arrays(made: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(
        (dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _ARRAY.findall(made)
    )
