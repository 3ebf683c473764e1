"""Language models of lovecraft_jax in PyTorch: runs, trains and saves the .safetensors files that its export writes.

    python pytorch_model.py model.safetensors "The ancient house" --length=500 --temperature=0.7

This file needs torch 2.4 or newer, safetensors, and for subwords tokenizers; nothing of lovecraft_jax.

A model takes ids [B, T] and the carry that it returned for the ids before them, None at the start of a text. It returns
the logits of the token after each id [B, T, V], log-probabilities where the head is an adaptive softmax, and its carry.
A file has one of two layouts, by its metadata: "torch", the names and shapes of nn.LSTM or nn.GRU, or "lovecraft_jax",
the names of that package, for what these layers cannot compute. The loop over time steps of the second is in Python.

Axes in names: B batch, T time, D features, H units, G gates side by side, V vocabulary.
"""

import abc
import argparse
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5  # added to a variance or a mean square
ENDINGS = ("ing", "ed", "ly", "tion", "ness", "ous", "able", "er", "est", "s")
KINDS = ("newlines", "spaces", "marks", "number", "capitals", "Capital", "apostrophe", "mixed", *ENDINGS, "word")
FORMS = [before + kind for before in ("", " ") for kind in KINDS]  # classes of rare words, in the order of their ids


class PlainModel(nn.Module):
    """The layout "torch": an embedding, or one-hot vectors where `embed` is 0, then nn.LSTM or nn.GRU, and a linear
    head. Its state_dict has the names and shapes of the file."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.vocab_size, D, H = settings["vocab_size"], settings["embed"], settings["units"]
        self.embedding = nn.Embedding(self.vocab_size, D) if D else None
        layer = {"lstm": nn.LSTM, "gru": nn.GRU}[settings["cell"]]
        self.rnn = layer(D or self.vocab_size, H, settings["layers"], batch_first=True)
        self.head = nn.Linear(H, self.vocab_size)

    def forward(self, ids_BT: Tensor, carry: Any = None) -> tuple[Tensor, Any]:
        x_BTD = self.embedding(ids_BT) if self.embedding else F.one_hot(ids_BT, self.vocab_size).float()
        h_BTH, carry = self.rnn(x_BTD, carry)
        return self.head(h_BTH), carry


class OwnModel(nn.Module):
    """The layout "lovecraft_jax": every cell, norm and head of the package. Training it here leaves the running
    statistics of batch norms as they are."""

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.settings = settings
        cell = {"lstm": LSTM, "gru": GRU}[settings["cell"]]
        for n in range(settings["layers"]):
            name = f"{settings['cell']}_{n}"
            self.add_module(name, cell(settings, under(f"{name}.", tensors)))
        self.is_adaptive = "head.head_bias" in tensors
        if self.is_adaptive:
            self.head = AdaptiveSoftmax(settings["softmax_head"], under("head.", tensors))
        register(self, {name: tensor for name, tensor in tensors.items() if "." not in name})

    def forward(self, ids_BT: Tensor, carry: Any = None) -> tuple[Tensor, Any]:
        settings, V = self.settings, self.settings["vocab_size"]
        tokens_BTD = self.embedding[ids_BT] if settings["embed"] else F.one_hot(ids_BT, V).float()
        outputs: list[Tensor] = []
        after = []
        for n in range(settings["layers"]):
            # With `skip` every layer takes the token too, and the head the outputs of all layers.
            inputs = [tokens_BTD] if n == 0 else [outputs[-1], tokens_BTD] if settings["skip"] else [outputs[-1]]
            layer = self.get_submodule(f"{settings['cell']}_{n}")
            h_BTH, layer_carry = layer(torch.cat(inputs, -1), carry[n] if carry else None)
            outputs.append(h_BTH)
            after.append(layer_carry)
        return self.logits(torch.cat(outputs, -1) if settings["skip"] else outputs[-1]), after

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits [..., V] after hidden states [..., H]; with `tie` the kernel of the head is the embedding."""
        if hasattr(self, "head_projection"):
            hidden = hidden @ self.head_projection
        table_VD = self.embedding if self.settings["tie"] else None
        if self.is_adaptive:
            return self.head(hidden, table_VD)
        return hidden @ (self.head_kernel if table_VD is None else table_VD.T) + self.head_bias


class Layer(nn.Module):
    """A recurrent layer: a loop over `step`. Kernels are [inputs, outputs], the transposes of PyTorch's."""

    carries: int  # arrays [B, H] that a time step takes from the one before it, of which the first is its output

    def __init__(self, settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.settings, self.units = settings, settings["units"]
        register(self, tensors)

    def forward(self, x_BTD: Tensor, carry: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        carry = carry or (x_BTD.new_zeros(len(x_BTD), self.units),) * self.carries
        outputs = []
        for x_BD in x_BTD.unbind(dim=1):
            carry = self.step(x_BD, *carry)
            outputs.append(carry[0])
        return torch.stack(outputs, dim=1), carry


class LSTM(Layer):
    """Gates i, f, g, o; f, g, o where the input gate is "coupled" (1 - f); "capped": min(i, 1 - f)."""

    carries = 2

    def step(self, x_BD: Tensor, h_BH: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
        for n in range(self.settings["mogrify"]):  # x and h modulate each other, in turns
            kernel = getattr(self, f"mogrify_{n + 1}")
            if n % 2 == 0:
                x_BD = 2 * torch.sigmoid(h_BH @ kernel) * x_BD
            else:
                h_BH = 2 * torch.sigmoid(x_BD @ kernel) * h_BH
        z_BG = self.normalise("x", x_BD @ self.kernel_x) + self.normalise("h", h_BH @ self.kernel_h)
        *i, f, g, o = (self.normalise("z", z_BG) + self.bias).split(self.units, dim=-1)
        f = torch.sigmoid(f)
        to_write = 1 - f
        if self.settings["input_gate"] != "coupled":
            to_write = torch.sigmoid(i[0])
        if self.settings["input_gate"] == "capped":
            to_write = torch.minimum(to_write, 1 - f)
        c_BH = f * c_BH + to_write * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.normalise("c", c_BH)), c_BH

    def normalise(self, part: str, values: Tensor) -> Tensor:
        """A part of the cell after its norm, if it has one: the gates' parts from x and h, their sum z, or c."""
        norm, scale = self.settings["norm"], getattr(self, f"scale_{part}", None)
        if scale is None:
            return values
        if part == "z":  # each gate by its own H values
            values_BNH, shape = values.unflatten(-1, (-1, self.units)), (self.units,)
            normalise = {"layer_gates": F.layer_norm, "rms_gates": F.rms_norm}[norm]
            return normalise(values_BNH, shape, eps=EPSILON).flatten(-2) * scale
        if norm == "layer":
            values = F.layer_norm(values, scale.shape, scale, eps=EPSILON)
        else:  # of the batch, by running statistics
            mean, variance = getattr(self, f"mean_{part}"), getattr(self, f"variance_{part}")
            values = (values - mean) * torch.rsqrt(variance + EPSILON) * scale
        return values + self.shift_c if part == "c" else values


class GRU(Layer):
    """Gates r, z, n, with the reset gate r after the matmul, as in nn.GRU."""

    carries = 1

    def step(self, x_BD: Tensor, h_BH: Tensor) -> tuple[Tensor]:
        x_r, x_z, x_n = (x_BD @ self.kernel_x + self.bias).split(self.units, dim=-1)
        h_r, h_z, h_n = (h_BH @ self.kernel_h).split(self.units, dim=-1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * (h_n + self.bias_h))
        return ((1 - z) * n + z * h_BH,)


class AdaptiveSoftmax(nn.Module):
    """A softmax over the `frequent` first ids and the tails, and one over the ids of each tail (Grave et al. 2017)."""

    def __init__(self, frequent: int, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.frequent = frequent
        register(self, tensors)

    def forward(self, hidden: Tensor, table_VD: Tensor | None) -> Tensor:
        """The log-probabilities [..., V] after hidden states [..., H]; `table_VD`: the embedding, if it is tied."""
        first = self.frequent
        kernel = self.head_kernel if table_VD is None else torch.cat([table_VD[:first].T, self.tails_kernel], 1)
        logs = F.log_softmax(hidden @ kernel + self.head_bias, -1)
        parts, low = [logs[..., :first]], first
        for n in range(logs.shape[-1] - first):
            bias = getattr(self, f"tail_{n}_bias")
            if table_VD is None:
                logits = hidden @ getattr(self, f"tail_{n}_projection") @ getattr(self, f"tail_{n}_kernel")
            else:
                logits = hidden @ table_VD[low : low + len(bias)].T
            parts.append(F.log_softmax(logits + bias, -1) + logs[..., first + n, None])
            low += len(bias)
        return torch.cat(parts, -1)


def register(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Makes running statistics buffers of the module, and all other tensors its parameters."""
    for name, tensor in tensors.items():
        if name.startswith(("mean_", "variance_")):
            module.register_buffer(name, tensor)
        else:
            module.register_parameter(name, nn.Parameter(tensor))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Tokenizer(abc.ABC):
    """Text to ids and back, after the cleaning that the training text had. `saved`: what the file's metadata say."""

    texts: list[str]  # of the ids
    start_id: int  # a newline's, which stands before the first token of a text

    def __init__(self, saved: dict[str, Any]) -> None:
        self.table, self.keep = saved["cleaning"]["table"], saved["cleaning"]["keep"]

    def clean(self, text: str) -> str:
        normal = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
        folded = "".join(self.table.get(char, char) for char in normal)
        return folded if self.keep is None else "".join(filter(self.keep.__contains__, folded))

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; 0 stands for a character that the training text did not have."""

    def prompt(self, text: str) -> list[int]:
        """Returns the ids of a text to continue, at least one. Its last word counts as complete."""
        return [self.start_id, *self.encode(text)]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[number] for number in ids)


class Characters(Tokenizer):
    """An id for each character."""

    def __init__(self, saved: dict[str, Any]) -> None:
        super().__init__(saved)
        self.texts = ["\N{REPLACEMENT CHARACTER}", *saved["chars"]]
        self.ids = {char: number for number, char in enumerate(saved["chars"], 1)}
        self.start_id = self.ids.get("\n", 0)

    def encode(self, text: str) -> list[int]:
        return [self.ids.get(char, 0) for char in self.clean(text)]

    def prompt(self, text: str) -> list[int]:
        return self.encode(text) or [self.start_id]


class Subwords(Tokenizer):
    """Byte-pair encoding, by the `tokenizers` library."""

    def __init__(self, saved: dict[str, Any]) -> None:
        import tokenizers

        super().__init__(saved)
        self.library = tokenizers.Tokenizer.from_str(json.dumps(saved["tokenizer"]))
        self.start_id = self.encode("\n")[0]

    def encode(self, text: str) -> list[int]:
        return self.library.encode(self.clean(text)).ids

    def decode(self, ids: list[int]) -> str:
        return self.library.decode(ids)  # a token may begin or end within a character


class Words(Tokenizer):
    """An id for each frequent word, and one for each class of rare words, whose text is a mark here: only lovecraft_jax
    spells them."""

    def __init__(self, saved: dict[str, Any]) -> None:
        super().__init__(saved)
        self.rare, counts = saved["rare"], saved["counts"]
        n_classes = {"spell": len(FORMS), "class": len(FORMS), "cluster": 16}.get(self.rare, 1)
        frequent = [word for word, count in counts.items() if count >= saved["min_count"]]
        no_word_is_rare = len(frequent) == len(counts) < saved["vocab_size"] - n_classes
        if no_word_is_rare or self.rare == "drop":  # then texts are encoded without their rare words
            self.rare, n_classes = "drop", 0
        names = FORMS if self.rare in ("spell", "class") else [f" {n}" for n in range(n_classes)]
        marks = [f"{name[: -len(name.lstrip())]}[rare: {name.strip()}]" for name in names]
        words = frequent[: saved["vocab_size"] - 1 - n_classes]
        self.texts = ["[unused]", *marks, *words]
        self.ids = {word: number for number, word in enumerate(words, 1 + n_classes)}
        self.clusters = dict(zip(counts, saved.get("clusters", ()), strict=False))
        self.start_id = next((self.ids[word] for word in words if word.startswith("\n")), 0)

    def encode(self, text: str) -> list[int]:
        ids = [self.ids.get(word) or self.class_id(word) for word in pretokens(self.clean(text))]
        return [number for number in ids if number]

    def class_id(self, word: str) -> int:
        """Returns the id of a rare word's class, 0 where rare words are left out."""
        if self.rare in ("spell", "class"):
            return 1 + FORMS.index(form(word))
        if self.rare == "cluster" and word not in self.clusters:
            raise ValueError(f"{word!r} is not in the training text: only lovecraft_jax can say what its class is")
        return 0 if self.rare == "drop" else 1 + self.clusters.get(word, 0)


def pretokens(text: str) -> list[str]:
    """Splits a text into words, numbers and punctuation, each with the space before it, and other white space."""
    marks = re.escape("".join({char for char in text if unicodedata.category(char).startswith("M")}))
    letter, other = r"[^\W\d_]", r"(?:[^\s\w]|_)"
    if marks:  # combining marks, which belong to words
        letter, other = rf"(?:{letter}|[{marks}])", rf"(?:(?![{marks}]){other})"
    return re.findall(rf"\n+| ?{letter}+(?:'{letter}+)*| ?\d+| ?{other}+|[^\S\n]+(?= \S)|[^\S\n]+", text)


def form(word: str) -> str:
    """Returns the one of FORMS that a rare word has."""
    before = " " if word.startswith(" ") and not word.isspace() else ""
    text = word.removeprefix(before)
    endings = [ending for ending in ENDINGS if text.endswith(ending) and len(text) > len(ending) + 1]
    found = {  # the first that is true
        "newlines": text.startswith("\n"),
        "spaces": text.isspace(),
        "number": text.isdecimal(),
        "marks": not any(map(str.isalnum, text)),
        "apostrophe": "'" in text,
        "capitals": text.isupper() and len(text) > 1,
        "Capital": text[0].isupper() and not any(map(str.isupper, text[1:])),
        "mixed": any(map(str.isupper, text)),
        (endings or ["word"])[0]: True,
    }
    return before + next(kind for kind, is_true in found.items() if is_true)


def load(path: str | Path) -> tuple[PlainModel | OwnModel, Any]:
    """Returns the model and the tokenizer of a file. Weights of 16 or 8 bits become float32."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: tensor.float() for name, tensor in stored.items() if not name.endswith(".scale")}
    for name in tensors:
        if f"{name}.scale" in stored:  # int8
            tensors[name] = tensors[name] * stored[f"{name}.scale"]
    settings, saved = json.loads(metadata["settings"]), json.loads(metadata["tokenizer"])
    model: PlainModel | OwnModel
    if metadata["layout"] == "torch":
        model = PlainModel(settings)
        model.load_state_dict(tensors)
    else:
        model = OwnModel(settings, tensors)
    model.metadata = metadata
    return model.eval(), make_tokenizer(saved)


def make_tokenizer(saved: dict[str, Any]) -> Tokenizer:
    """Returns the tokenizer of a file's metadata, or of a vocab.json."""
    kinds: dict[str, Any] = {"chars": Characters, "bpe": Subwords, "words": Words}
    tokenizer: Tokenizer = kinds[saved["level"]](saved)
    return tokenizer


def save(model: PlainModel | OwnModel, path: str | Path) -> None:
    """Writes the model to a file that `load` and lovecraft_jax read, without the scores of the weights it had."""
    facts = json.loads(model.metadata["facts"]) | {"metrics": [], "scores": None}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, model.metadata | {"facts": json.dumps(facts)})


def detach(carry: Any) -> Any:
    """Returns a carry through which no gradient flows, for truncated backpropagation through time."""
    return carry.detach() if isinstance(carry, Tensor) else tuple(map(detach, carry))


@torch.no_grad()
def generate(
    model: nn.Module, tokenizer: Any, prompt: str = "", length: int = 500, temperature: float = 0.7, seed: int = 0
) -> str:
    """Returns `length` new tokens as text; temperature 0 always takes the likeliest."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    logits_BTV, carry = model(torch.tensor([tokenizer.prompt(prompt)], device=device))
    ids: list[int] = []
    for _ in range(length):
        logits_V = logits_BTV[0, -1]
        logits_V[0] = -torch.inf  # id 0 is no token
        if temperature:
            probs_V = torch.softmax((logits_V - logits_V.max()) / temperature, dim=-1)
            ids.append(int(torch.multinomial(probs_V, 1, generator=generator)))
        else:
            ids.append(int(logits_V.argmax()))
        logits_BTV, carry = model(torch.tensor([ids[-1:]], device=device), carry)
    return tokenizer.decode(ids)


def main() -> None:
    """Prints the prompt and its continuation."""
    parser = argparse.ArgumentParser(description="Continues a prompt.")
    parser.add_argument("file", help="a .safetensors file that lovecraft_jax exported")
    parser.add_argument("prompt", nargs="?", default="")
    parser.add_argument("--length", type=int, default=500, help="new tokens")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(args.prompt + generate(*load(args.file), args.prompt, args.length, args.temperature, args.seed))


if __name__ == "__main__":
    main()
