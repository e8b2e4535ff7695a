"""Which layers of a model fit on which graphics cards, computed before anything is loaded, without llama.cpp.

llama.cpp puts the last `n_gpu_layers` layers of a model on cards; the output layer counts as one after the others. Token
embeddings stay in main memory. A card holds its layers with their part of the KV cache, and the buffers of a forward pass
once. Sources: llama-model.cpp (load_tensors), and the buffer sizes that llama.cpp logs, with which the tests compare these
formulas.
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
"""Per token of a batch and cell, or other token, that it may attend to; float32 without flash attention."""
RUNTIME_BYTES = 160 * MIB
"""What else a backend uses: handles, scratch memory for matrix products, streams. Without what the driver uses for any
process: the free memory that a card reports is already without it."""
SLACK = 1.1
"""Factor on all sizes, for fragmentation and for versions of llama.cpp that use more."""
COPY_BYTES = 2
LEAST_PART = 0.1
"""With a smaller share of the layers, transfers over the bus cost more than the card saves."""


class DoesNotFitError(Exception):
    """The model does not fit on the cards; the message has the sizes."""


@dataclass(frozen=True)
class ModelWeights:
    """Sizes in bytes of what a model's file holds, and the numbers that determine the buffers of a pass."""

    layers: tuple[int, ...]
    output: int
    """The output layer; where it uses the matrix of the token embeddings, a copy of that."""
    largest_matrix: int
    """Numbers in the largest matrix of a layer: backends without a kernel for its type use a copy in float16."""
    feed_forward: int
    """Width of the feed-forward network; twice that with a gate."""
    heads_width: int
    """Numbers in a token's query."""
    heads: int
    """Heads of a token's query."""

    @property
    def count(self) -> int:
        """Number of layers as llama.cpp counts them: with the output layer."""
        return len(self.layers) + 1

    @property
    def flash(self) -> bool:
        """Whether every card has flash attention for it; without, each head keeps weights for all pairs of tokens."""
        return self.heads_width // self.heads in FLASH_HEADS


class GpuPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which layers of a model go where. The tuples have one entry per device."""

    devices: tuple[str, ...]
    gpu_layers: int
    layers: int
    """Of the model, including the output layer."""
    bytes: tuple[int, ...]
    """Estimated use."""
    room: tuple[int, ...]
    """Available for the model."""
    tensor_split: tuple[float, ...] = ()
    """Layers on each device, if there are several."""

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
    """Bytes of each layer with its KV cells, the output layer last; and the bytes that each device needs once."""

    units: tuple[int, ...]
    fixed: int


# --- sizes ------------------------------------------------------------------------------------------------------------


def room_on(device: Device, utilization: float, own: int = 0) -> int:
    """Return the bytes that a model may use: the free memory minus the share of the card that has to stay free.

    own: bytes that the model already uses there. A device whose memory is unknown has room for everything.
    """
    if not device.memory_total:
        return 2**62
    reserved = int((1 - utilization) * device.memory_total)
    return max(0, min(device.memory_free + own, device.memory_total) - reserved)


def context_bytes(weights: ModelWeights, facts: ModelFacts, shape: ContextShape, *, flash: bool = True) -> tuple[int, int]:
    """Return the bytes of a context: one layer's KV cells, and the buffers of a pass on one device."""
    cells = -(-shape.cells // CELLS_STEP) * CELLS_STEP
    kv = cells * facts.cell_bytes // max(1, len(weights.layers))
    # In use at the same time: input and output of a block, its norm, queries, keys, values, and the feed-forward network.
    activations = 4 * shape.batch * (weights.feed_forward + 3 * facts.width + 2 * weights.heads_width)
    # A decoder's logits, one row per sequence, are never in use together with the activations of layers.
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


# --- the plan ---------------------------------------------------------------------------------------------------------


def plan_gpu(
    weights: ModelWeights,
    facts: ModelFacts,
    options: WorkerOptions,
    devices: Sequence[Device],
    rooms: Sequence[int],
    *,
    layers: int | None = None,
) -> GpuPlan:
    """Return the plan with the most layers: on the device with the most room, or else split over all devices.

    options: batches, context and lanes as the worker will have them. rooms: from `room_on`, for each device. layers: the
    number that the user sets. Raises DoesNotFitError when not even a part fits.
    """
    needs = _needs(weights, facts, options)
    order = sorted(range(len(devices)), key=lambda number: -rooms[number])  # the first of equal ones
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
    """Return a plan that fills the devices one after the other with consecutive layers; None when some do not fit."""
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
    """Return the device on which llama.cpp puts a layer, the output layer being the last; None for main memory."""
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
