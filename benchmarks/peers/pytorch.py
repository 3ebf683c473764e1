"""PyTorch: nn.LSTM, time-major, which it prefers, fused Adam, clipping; eager, through torch.compile, or, on a GPU,
with a whole training step, or many characters, as one CUDA graph.

torch.compile leaves nn.LSTM alone. With torch._dynamo.config.allow_rnn it decomposes the layer, and c150 takes 1.4
times as long on a CPU. In bfloat16 the parameters and Adam's moments are bfloat16 too: that is its fastest, and less
accurate than this project's bfloat16, which keeps both in float32.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from benchmarks.workloads import batches, text

CHARACTERS_A_GRAPH = 50
WARMUP = 4
"""Calls before one is captured as a CUDA graph, in which libraries allocate what they keep."""

Carry = tuple[torch.Tensor, torch.Tensor]


def choose_precision(precision: str) -> tuple[str, torch.dtype]:
    """Allows TF32 or forbids it, which matters on a GPU only; returns the device and the dtype of parameters. Raises
    RuntimeError where a GPU is to be measured and PyTorch finds none."""
    if os.environ.get("BENCHMARK_DEVICE") == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU")
    is_tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return "cuda" if torch.cuda.is_available() else "cpu", dtype


def wait() -> None:
    """Waits until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class TorchLM(nn.Module):
    """Embedding, nn.LSTM, softmax."""

    def __init__(self, vocab_size: int, config: ConfigDict) -> None:
        super().__init__()
        sizes = config.model
        self.embedding = nn.Embedding(vocab_size, sizes.embed)
        self.lstm = nn.LSTM(sizes.embed, sizes.units, sizes.layers)
        self.head = nn.Linear(sizes.units, vocab_size)

    def forward(self, x_TB: torch.Tensor, carry: Carry) -> tuple:
        """Returns logits_TBV and the carry after the ids."""
        h_TBH, carry = self.lstm(self.embedding(x_TB), carry)
        return self.head(h_TBH), carry


def train(config: ConfigDict, way: str = "eager", precision: str = "float32") -> Callable[[int], None]:
    """One step a call, as PyTorch's tutorials train language models, "eager" or "compiled", or replayed as a "CUDA
    graph"."""
    torch.manual_seed(0)
    device, dtype = choose_precision(precision)
    vocab_size, recipe = text().tokenizer.size, config.optimizer
    model = TorchLM(vocab_size, config).to(device, dtype)
    betas, is_graph = (recipe.beta1, recipe.beta2), way == "CUDA graph"
    optimizer = torch.optim.Adam(
        model.parameters(), recipe.lr, betas, recipe.eps, fused=True, capturable=is_graph and device == "cuda"
    )
    shape = (config.model.layers, config.data.batch_size, config.model.units)
    carry = _zeros(shape, device, dtype)

    def loss_of(x_TB: torch.Tensor, y_TB: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        logits_TBV, after = model(x_TB, carry)
        return nn.functional.cross_entropy(logits_TBV.float().view(-1, vocab_size), y_TB.view(-1)), after

    if way == "compiled":
        loss_of = torch.compile(loss_of)

    def step(x_TB: torch.Tensor, y_TB: torch.Tensor, carry: Carry) -> Carry:
        loss, (h, c) = loss_of(x_TB, y_TB, carry)
        optimizer.zero_grad(set_to_none=True)  # in a graph too: a replay then overwrites the gradients
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        return h.detach(), c.detach()

    feed = _batches(config, device)
    if is_graph:
        ids_TB = torch.zeros((config.data.seq_len, config.data.batch_size), dtype=torch.int64, device=device)
        x_TB, y_TB = ids_TB, ids_TB.clone()

        def step_in_place() -> None:
            for old, new in zip(carry, step(x_TB, y_TB, carry), strict=True):
                old.copy_(new)

        replay = _capture(step_in_place)

    def steps(count: int) -> None:
        nonlocal carry
        for _ in range(count):
            x, y = next(feed)
            if is_graph:
                x_TB.copy_(x)
                y_TB.copy_(y)
                replay()
            else:
                carry = step(x, y, carry)
        wait()

    return steps


def _batches(config: ConfigDict, device: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the ids of each step and those that follow, [T, B]. A GPU gets those of many steps at once."""
    for batch in batches(config, config.train.steps_per_dispatch if device == "cuda" else 1):
        ids_KTB = (np.ascontiguousarray(ids_KBT.swapaxes(1, 2), np.int64) for ids_KBT in (batch.x_BT, batch.y_BT))
        yield from zip(*(torch.from_numpy(ids).to(device) for ids in ids_KTB), strict=True)


def _capture(call: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that replays `call` as a CUDA graph; on a CPU, which has none, `call` itself."""
    if not torch.cuda.is_available():
        return call
    # Calls on another stream first, as a capture demands.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


def _zeros(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> Carry:
    return torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype)


def generate(config: ConfigDict, streams: int, way: str = "eager", precision: str = "float32") -> Callable[[int], None]:
    """A loop over characters, as in PyTorch's word language model: softmax at temperature 0.7, multinomial. Or, as a
    "CUDA graph", so many characters a replay."""
    torch.manual_seed(0)
    device, dtype = choose_precision(precision)
    model = TorchLM(text().tokenizer.size, config).to(device, dtype).eval()
    shape = (config.model.layers, streams, config.model.units)

    def probabilities(x_1S: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        logits_1SV, carry = model(x_1S, carry)
        return torch.softmax(logits_1SV[0].float() / 0.7, dim=-1), carry

    @torch.inference_mode()
    def characters(count: int) -> None:
        x_1S, carry = torch.zeros((1, streams), dtype=torch.int64, device=device), _zeros(shape, device, dtype)
        generated = []
        for _ in range(count):
            probabilities_SV, carry = probabilities(x_1S, carry)
            x_1S = torch.multinomial(probabilities_SV, 1).T
            generated.append(x_1S)
        torch.cat(generated).cpu().numpy()

    if way != "CUDA graph":
        return characters
    x_1S, carry = torch.zeros((1, streams), dtype=torch.int64, device=device), _zeros(shape, device, dtype)
    generated_NS = torch.zeros((CHARACTERS_A_GRAPH, streams), dtype=torch.int64, device=device)

    @torch.no_grad()
    def some_characters() -> None:
        now_1S, state = x_1S, carry
        for n in range(CHARACTERS_A_GRAPH):
            probabilities_SV, state = probabilities(now_1S, state)
            # Divided by exponential noise, the largest is a draw (torch.multinomial may synchronise with the host).
            now_1S = (probabilities_SV / torch.empty_like(probabilities_SV).exponential_()).argmax(-1)[None]
            generated_NS[n].copy_(now_1S[0])
        for old, new in zip((x_1S, *carry), (now_1S, *state), strict=True):
            old.copy_(new)

    replay = _capture(some_characters)

    def characters_by_graph(count: int) -> None:
        for start in (x_1S, *carry):
            start.zero_()
        parts = []
        for _ in range(0, count, CHARACTERS_A_GRAPH):
            replay()
            parts.append(generated_NS.clone())
        torch.cat(parts).cpu().numpy()

    return characters_by_graph


def generate_by_cells(config: ConfigDict, streams: int) -> Callable[[int], None]:
    """A loop over characters with nn.LSTMCell, the fastest for single steps: no call into oneDNN's LSTM for each."""
    torch.manual_seed(0)
    device, _ = choose_precision("float32")
    sizes, vocab_size = config.model, text().tokenizer.size
    embedding, head = nn.Embedding(vocab_size, sizes.embed).to(device), nn.Linear(sizes.units, vocab_size).to(device)
    cells = [nn.LSTMCell(sizes.units if n else sizes.embed, sizes.units).to(device) for n in range(sizes.layers)]

    @torch.inference_mode()
    def characters(count: int) -> None:
        x_S = torch.zeros(streams, dtype=torch.int64, device=device)
        carry = [_zeros((streams, sizes.units), device, torch.float32) for _ in cells]
        generated = []
        for _ in range(count):
            h_SD = embedding(x_S)
            for n, cell in enumerate(cells):
                carry[n] = cell(h_SD, carry[n])
                h_SD = carry[n][0]
            x_S = torch.multinomial(torch.softmax(head(h_SD) / 0.7, dim=-1), 1)[:, 0]
            generated.append(x_S)
        torch.stack(generated).cpu().numpy()

    return characters
