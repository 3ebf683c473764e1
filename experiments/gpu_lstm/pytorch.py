"""PyTorch's nn.LSTM (cuDNN): a whole training step as one CUDA graph, timed. `python -m experiments.gpu_lstm.pytorch
UNITS ROWS TIME_STEPS` prints milliseconds a step as JSON."""

import json
import sys
import time

import torch
from torch import nn

V, E, STEPS, ROUNDS = 100, 64, 20, 7


class LanguageModel(nn.Module):
    """Embedding, two LSTM layers, head."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, E)
        self.lstm = nn.LSTM(E, units, 2)
        self.head = nn.Linear(units, V)

    def forward(self, x_TB: torch.Tensor, carry: tuple) -> tuple[torch.Tensor, tuple]:
        """Returns logits [T, B, V] and the carry after the ids."""
        h_TBH, carry = self.lstm(self.embedding(x_TB), carry)
        return self.head(h_TBH), carry


def measure(units: int, rows: int, time_steps: int, dtype: torch.dtype) -> list[float]:
    """Milliseconds a step of some rounds: forward, backward, clipping and Adam. float32 is with TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = LanguageModel(units).cuda().to(dtype)
    model.lstm.flatten_parameters()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
    x_TB, y_TB = (torch.randint(V, (time_steps, rows), device="cuda") for _ in range(2))
    carry = tuple(torch.zeros(2, rows, units, device="cuda", dtype=dtype) for _ in range(2))

    def step() -> None:
        logits, after = model(x_TB, carry)
        nn.functional.cross_entropy(logits.float().view(-1, V), y_TB.view(-1)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        adam.step()
        for old, new in zip(carry, after, strict=True):
            old.copy_(new.detach())
        adam.zero_grad(set_to_none=False)

    # Steps on another stream first, as a capture demands.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(STEPS):
            graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / STEPS * 1e3)
    return times[1:]


if __name__ == "__main__":
    H, B, T = (int(value) for value in sys.argv[1:])
    print(json.dumps({str(dtype)[6:]: measure(H, B, T, dtype) for dtype in (torch.bfloat16, torch.float32)}))
