"""PyTorch: nn.LSTM, time-major, which it prefers, fused Adam, clipping; eager, or through torch.compile.

torch.compile leaves nn.LSTM alone. With torch._dynamo.config.allow_rnn it decomposes the layer, and c150 takes 1.4
times as long.
"""

from collections.abc import Callable

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn

from benchmarks.workloads import batches, text


class TorchLM(nn.Module):
    """Embedding, nn.LSTM, softmax."""

    def __init__(self, vocab_size: int, config: ConfigDict) -> None:
        super().__init__()
        sizes = config.model
        self.embedding = nn.Embedding(vocab_size, sizes.embed)
        self.lstm = nn.LSTM(sizes.embed, sizes.units, sizes.layers)
        self.head = nn.Linear(sizes.units, vocab_size)

    def forward(self, x_TB: torch.Tensor, carry: tuple[torch.Tensor, torch.Tensor]) -> tuple:
        """Returns logits_TBV and the carry after the ids."""
        h_TBH, carry = self.lstm(self.embedding(x_TB), carry)
        return self.head(h_TBH), carry


def train(config: ConfigDict, compiled: bool = False) -> Callable[[int], None]:
    """One step a call, as PyTorch's tutorials train language models."""
    torch.manual_seed(0)
    vocab_size, recipe = text().tokenizer.size, config.optimizer
    model = TorchLM(vocab_size, config)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True
    )
    shape = (config.model.layers, config.data.batch_size, config.model.units)
    carry = (torch.zeros(shape), torch.zeros(shape))

    def loss_of(x_TB: torch.Tensor, y_TB: torch.Tensor, carry: tuple) -> tuple[torch.Tensor, tuple]:
        logits_TBV, after = model(x_TB, carry)
        return nn.functional.cross_entropy(logits_TBV.view(-1, vocab_size), y_TB.view(-1)), after

    if compiled:
        loss_of = torch.compile(loss_of)
    feed = batches(config, 1)

    def steps(count: int) -> None:
        nonlocal carry
        for _ in range(count):
            batch = next(feed)
            x_TB, y_TB = (torch.from_numpy(np.ascontiguousarray(ids[0].T, np.int64)) for ids in batch[:2])
            loss, after = loss_of(x_TB, y_TB, carry)
            carry = tuple(part.detach() for part in after)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()

    return steps


def generate(config: ConfigDict, streams: int) -> Callable[[int], None]:
    """A loop over characters, as in PyTorch's word language model: softmax at temperature 0.7, multinomial."""
    torch.manual_seed(0)
    model = TorchLM(text().tokenizer.size, config).eval()
    shape = (config.model.layers, streams, config.model.units)

    @torch.inference_mode()
    def characters(count: int) -> None:
        x_1S, carry = torch.zeros((1, streams), dtype=torch.int64), (torch.zeros(shape), torch.zeros(shape))
        generated = []
        for _ in range(count):
            logits_1SV, carry = model(x_1S, carry)
            x_1S = torch.multinomial(torch.softmax(logits_1SV[0] / 0.7, dim=-1), 1).T
            generated.append(x_1S)
        torch.cat(generated).numpy()

    return characters


def generate_by_cells(config: ConfigDict, streams: int) -> Callable[[int], None]:
    """The same with nn.LSTMCell, the fastest for single steps: no call into oneDNN's LSTM for every character."""
    torch.manual_seed(0)
    sizes, vocab_size = config.model, text().tokenizer.size
    embedding, head = nn.Embedding(vocab_size, sizes.embed), nn.Linear(sizes.units, vocab_size)
    cells = [nn.LSTMCell(sizes.units if n else sizes.embed, sizes.units) for n in range(sizes.layers)]

    @torch.inference_mode()
    def characters(count: int) -> None:
        x_S = torch.zeros(streams, dtype=torch.int64)
        carry = [(torch.zeros(streams, sizes.units), torch.zeros(streams, sizes.units)) for _ in cells]
        generated = []
        for _ in range(count):
            h_SD = embedding(x_S)
            for n, cell in enumerate(cells):
                carry[n] = cell(h_SD, carry[n])
                h_SD = carry[n][0]
            x_S = torch.multinomial(torch.softmax(head(h_SD) / 0.7, dim=-1), 1)[:, 0]
            generated.append(x_S)
        torch.stack(generated).numpy()

    return characters
