"""What a compiled program does on one device: matrix products, collectives and array sizes, loops counted out.

XLA's own cost analysis counts a loop's body once; here every instruction counts as often as it runs.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.\-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COLLECTIVE = re.compile(r"^(all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(-start)?$")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`arrays` are the dtypes and shapes of what it makes; `times` how often it runs."""

    name: str
    operation: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    rest: str
    times: float

    @property
    def bytes(self) -> int:
        return _size(self.arrays)


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
        self._open_loops = open_loops
        self.instructions = list(self._run(entry, 1.0))
        self._made = {
            name: _arrays(made) for computation in self._computations.values() for name, made, _, _ in computation
        }

    def _run(self, computation: str, times: float) -> Iterator[Instruction]:
        for name, made, operation, rest in self._computations[computation]:
            yield Instruction(name, operation, _arrays(made), rest, times)
            inner = times
            if operation == "while":
                trips = _TRIPS.search(rest)
                inner *= int(trips[1]) if trips else self._open_loops
            for called, branches in _CALLED.findall(rest):
                for each in [called] if called else re.findall(r"%([\w.\-]+)", branches):
                    yield from self._run(each, inner)

    @property
    def flops(self) -> float:
        """Of all matrix products: two for each multiplication and addition."""
        total = 0.0
        for instruction in self._products:
            left = self._made[_names(instruction.rest)[0]][0][1]
            found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
            contracted = [left[int(axis)] for axis in found[1].split(",")] if found and found[1] else []
            total += 2 * math.prod(instruction.arrays[0][1]) * math.prod(contracted) * instruction.times
        return total

    @property
    def product_bytes(self) -> float:
        """Of the operands and results of all matrix products, each counted where it is used."""
        total = 0.0
        for instruction in self._products:
            operands = [array for name in _names(instruction.rest)[:2] for array in self._made[name]]
            total += instruction.times * (instruction.bytes + _size(operands))
        return total

    @property
    def _products(self) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.operation == "dot"]

    @property
    def collectives(self) -> list[Instruction]:
        return [instruction for instruction in self.instructions if _COLLECTIVE.match(instruction.operation)]

    def collective_bytes(self) -> Counter[str]:
        """Bytes that each kind of collective makes on this device, as often as it runs."""
        total: Counter[str] = Counter()
        for instruction in self.collectives:
            total[instruction.operation.removesuffix("-start")] += int(instruction.bytes * instruction.times)
        return total

    def arrays_with(self, size: int) -> list[Instruction]:
        """What makes an array that has an axis of this size."""
        return [each for each in self.instructions if any(size in shape for _, shape in each.arrays)]


def _size(arrays: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    return sum(math.prod(shape) * _BYTES.get(dtype, 4) for dtype, shape in arrays)


def _names(operands: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", operands)


def _arrays(made: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(
        (dtype, tuple(int(size) for size in sizes.split(",") if size)) for dtype, sizes in _ARRAY.findall(made)
    )
