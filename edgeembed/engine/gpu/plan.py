"""What of a model fits onto which graphics cards, before anything is loaded. Arithmetic only, no llama.cpp.

llama.cpp puts the last `n_gpu_layers` of a model's layers onto cards, its output layer counted as one behind the others;
the embeddings of tokens stay in the machine's memory. A card holds its layers with their part of the KV cache, and once the
buffers of a forward pass. Sources: llama-model.cpp (load_tensors), and the buffer sizes that llama.cpp 0c1e57098 logs, which
the tests hold these formulas against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgeembed.engine.context_plan import ContextShape, ModelFacts, make_plan
from edgeembed.engine.gpu.inventory import Device
from edgeembed.engine.worker_options import WorkerOptions

MIB = 2**20
CELLS_STEP = 256
"""llama.cpp rounds the cells of a KV cache up to a multiple of this."""
FLASH_HEADS = (40, 64, 72, 80, 96, 112, 128, 256)
"""Widths of heads for which CUDA has flash attention (fattn.cu); elsewhere there are a few more."""
FLASH_MASK_BYTES, PLAIN_MASK_BYTES = 2, 4
"""Of each token of a batch for each cell, or other token, that it may look at; without flash attention in float32."""
RUNTIME_BYTES = 160 * MIB
"""What a backend takes besides: handles, a work space for matrix products, streams. What the driver takes for any process at
all is not in here: it is gone from the free memory when that is asked for."""
SLACK = 1.1
"""Of everything: fragments, and versions of llama.cpp that are less thrifty."""
COPY_BYTES = 2
LEAST_PART = 0.1
"""A smaller share of the layers is not worth the way over the bus."""


class DoesNotFitError(Exception):
    """There is no room for the model on the cards; the message says how much is missing."""


@dataclass(frozen=True)
class ModelWeights:
    """Sizes in bytes of what a model's file holds, and what decides about the buffers of a pass."""

    layers: tuple[int, ...]
    output: int
    """The output layer; where its matrix is the embeddings', a copy of them."""
    largest_matrix: int
    """Numbers in the largest matrix of a layer: kernels without one for its type work on a copy in float16."""
    feed_forward: int
    """Width of the feed-forward network, twice that where it has a gate."""
    heads_width: int
    """Numbers in a token's query."""
    heads: int
    """Heads of a token's query."""

    @property
    def count(self) -> int:
        """What llama.cpp counts as layers: the output layer too."""
        return len(self.layers) + 1

    @property
    def flash(self) -> bool:
        """Whether every card has flash attention for it; without, each head's weights are kept for all pairs of tokens."""
        return self.heads_width // self.heads in FLASH_HEADS


class GpuPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a model goes where. One entry for each device in the tuples."""

    devices: tuple[str, ...]
    gpu_layers: int
    layers: int
    """Of the model, the output layer included."""
    bytes: tuple[int, ...]
    """What is taken, by estimate."""
    room: tuple[int, ...]
    """What may be taken."""
    tensor_split: tuple[float, ...] = ()
    """Layers on each device, where there are several."""

    @property
    def whole(self) -> bool:
        return self.gpu_layers >= self.layers

    def __str__(self) -> str:
        where = " and ".join(
            f"{name} ({taken / MIB:,.0f} of {room / MIB:,.0f} MiB)"
            for name, taken, room in zip(self.devices, self.bytes, self.room, strict=True)
        )
        return f"{'all' if self.whole else self.gpu_layers} of {self.layers} layers on {where}"


@dataclass(frozen=True)
class _Needs:
    """Bytes: of each layer with its KV cells, the output layer last; and what each device takes once."""

    units: tuple[int, ...]
    fixed: int


# --- sizes ------------------------------------------------------------------------------------------------------------


def room_on(device: Device, utilization: float, own: int = 0) -> int:
    """Give the bytes that a model may take: all that is free but the share of the card that is to be left alone.

    own: bytes there that are the model's already. A device that says nothing of its memory has room for all.
    """
    if not device.memory_total:
        return 2**62
    left_alone = int((1 - utilization) * device.memory_total)
    return max(0, min(device.memory_free + own, device.memory_total) - left_alone)


def context_bytes(weights: ModelWeights, facts: ModelFacts, shape: ContextShape, *, flash: bool = True) -> tuple[int, int]:
    """Give the bytes of a context: of one layer's KV cells, and of the buffers of a pass on one device."""
    cells = -(-shape.cells // CELLS_STEP) * CELLS_STEP
    kv = cells * facts.cell_bytes // max(1, len(weights.layers))
    # Live at a time: what goes into a block and comes out of it, its norm, queries, keys, values, and the feed-forward.
    activations = 4 * shape.batch * (weights.feed_forward + 3 * facts.width + 2 * weights.heads_width)
    # A decoder's logits, for each sequence, are never live beside the layers' activations.
    logits = 4 * facts.vocabulary * shape.sequences if shape.pieces else 0
    pairs = shape.batch * (cells if facts.cell_bytes else shape.batch)
    attention = FLASH_MASK_BYTES * pairs if flash else (PLAIN_MASK_BYTES + 4 * weights.heads) * pairs
    return kv, max(activations, logits) + attention


def _needs(weights: ModelWeights, facts: ModelFacts, options: WorkerOptions) -> _Needs:
    plan = make_plan(facts, options, last_only=facts.pieces)
    shapes = [plan.wide, *([plan.bulk] * plan.bulk_lanes)]
    sizes = [context_bytes(weights, facts, shape, flash=weights.flash) for shape in shapes]
    kv = sum(size for size, _ in sizes)
    passes = sum(size for _, size in sizes)
    fixed = RUNTIME_BYTES + passes + COPY_BYTES * weights.largest_matrix
    units = (*(layer + kv for layer in weights.layers), weights.output)
    return _Needs(tuple(int(SLACK * unit) for unit in units), int(SLACK * fixed))


# --- what goes where --------------------------------------------------------------------------------------------------


def plan_gpu(
    weights: ModelWeights,
    facts: ModelFacts,
    options: WorkerOptions,
    devices: Sequence[Device],
    rooms: Sequence[int],
    *,
    layers: int | None = None,
) -> GpuPlan:
    """Say what goes onto the devices: the whole model onto the one with most room, or over several, or a part of it.

    options: batches, context and lanes as the worker will have them. rooms: what `room_on` gives for each device. layers:
    so many and no others, the user says. Raises DoesNotFitError when not even a part fits.
    """
    needs = _needs(weights, facts, options)
    order = sorted(range(len(devices)), key=lambda number: -rooms[number])  # the first of those that are alike
    counts = [weights.count] if layers is None else [min(layers, weights.count)]
    if layers is None:
        counts += range(weights.count - 1, 0, -1)
    for count in counts:
        part = needs.units[weights.count - count :]
        if layers is None and count < max(2, LEAST_PART * weights.count):
            break
        for used in ([number] for number in order):
            if found := _fill(part, needs.fixed, used, devices, rooms, weights.count):
                return found
        if len(order) > 1 and (found := _fill(part, needs.fixed, order, devices, rooms, weights.count)):
            return found
    wanted = needs.fixed + sum(needs.units[weights.count - counts[0] :])
    most = max(rooms, default=0)
    what = f"{counts[0]} of {weights.count} layers" if layers is not None else "the model"
    raise DoesNotFitError(
        f"out of memory before loading: {what} would take {wanted / MIB:,.0f} MiB, and "
        f"{_named(devices, rooms)} has room for {most / MIB:,.0f} MiB"
    )


def _fill(
    part: Sequence[int], fixed: int, used: Sequence[int], devices: Sequence[Device], rooms: Sequence[int], total: int
) -> GpuPlan | None:
    """Fill the devices one after the other with layers that follow each other; None when some are left over."""
    counts, taken = [], []
    left = list(part)
    for number in used:
        size, count = fixed, 0
        while left and size + left[0] <= rooms[number]:
            size += left.pop(0)
            count += 1
        if count:
            counts.append((number, count))
            taken.append(size)
    if left:
        return None
    return GpuPlan(
        devices=tuple(devices[number].name for number, _ in counts),
        gpu_layers=len(part),
        layers=total,
        bytes=tuple(taken),
        room=tuple(rooms[number] for number, _ in counts),
        tensor_split=tuple(float(count) for _, count in counts) if len(counts) > 1 else (),
    )


def device_of_layer(layer: int, plan: GpuPlan) -> str | None:
    """Say where llama.cpp puts a layer, the output layer being the last one; None is the processor's memory."""
    number = layer - (plan.layers - plan.gpu_layers)
    if number < 0:
        return None
    ends, total = 0.0, sum(plan.tensor_split) or 1.0
    for name, share in zip(plan.devices, plan.tensor_split or (1.0,), strict=True):
        ends += share
        if number / plan.gpu_layers < ends / total:
            return name
    return plan.devices[-1]


def _named(devices: Sequence[Device], rooms: Sequence[int]) -> str:
    best = max(range(len(devices)), key=lambda number: rooms[number], default=None)
    return "no device" if best is None else devices[best].name
