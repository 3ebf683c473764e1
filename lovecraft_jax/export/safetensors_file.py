"""model.safetensors: weights by the names and in the layout of torch.nn.LSTM and torch.nn.GRU where these compute the
same, else by our own names.

In PyTorch's layout the tensors are the state_dict of an nn.Embedding "embedding" (none where tokens are one-hot), an
nn.LSTM or nn.GRU "rnn" and an nn.Linear "head"; gates have the same order here and there. `settings` in the metadata
then describe that model, whose input has no norm any more.
"""

import dataclasses
import os
import re
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lovecraft_jax.export.weights import Portable, dequantise, make_metadata, quantise
from lovecraft_jax.model.normalization import EPSILON
from lovecraft_jax.runtime.errors import UserError

TORCH, OWN = "torch", "lovecraft_jax"  # the layouts


def safetensors_bytes(model: Portable, dtype: str = "float32") -> bytes:
    """Returns the file's content, of what `as_stored` returns."""
    stored, layout = as_stored(model, dtype)
    tensors = quantise(to_torch(stored) if layout == TORCH else stored.tensors, dtype)
    return safetensors.numpy.save(tensors, make_metadata(stored, layout))


def own_bytes(model: Portable, dtype: str = "float32") -> bytes:
    """Returns the content of a file with our own names."""
    return safetensors.numpy.save(quantise(model.tensors, dtype), make_metadata(model, OWN))


def as_stored(model: Portable, dtype: str) -> tuple[Portable, str]:
    """Returns the model as `safetensors_bytes` stores it, and the layout: PyTorch's where it can hold the model, except
    in int8, else our own."""
    if dtype == "int8" or not is_plain(model.settings):
        return model, OWN
    return fold(model), TORCH


def is_plain(settings: dict[str, Any]) -> bool:
    """Whether nn.Embedding, nn.LSTM or nn.GRU, and nn.Linear compute what the model does, after `fold`."""
    is_adaptive = 0 < settings["softmax_head"] < settings["vocab_size"]
    is_projected = settings["tie"] and settings["embed"] != settings["units"]
    return (
        settings["norm"] in ("none", "batch_input")
        and settings["input_gate"] != "capped"
        and not (settings["mogrify"] or settings["skip"] or is_adaptive or is_projected)
    )


def fold(model: Portable) -> Portable:
    """Returns a model for which `is_plain` as one without a norm, with an input gate of its own, and an untied head."""
    settings, tensors = model.settings, dict(model.tensors)
    for n in range(settings["layers"]):
        prefix = f"{settings['cell']}_{n}."
        layer = {name.removeprefix(prefix): tensors.pop(name) for name in model.tensors if name.startswith(prefix)}
        kernel_x, kernel_h, bias = layer["kernel_x"], layer["kernel_h"], layer["bias"]
        if settings["norm"] == "batch_input":
            factor = layer["scale_x"] / np.sqrt(layer["variance_x"] + np.float32(EPSILON))
            kernel_x, bias = kernel_x * factor, bias - layer["mean_x"] * factor
        if settings["input_gate"] == "coupled":  # of f, g, o: 1 - sigmoid(f), its input gate, is sigmoid(-f)
            H = settings["units"]
            kernel_x, kernel_h, bias = (
                np.concatenate([-part[..., :H], part], axis=-1) for part in (kernel_x, kernel_h, bias)
            )
        folded = {"kernel_x": kernel_x, "kernel_h": kernel_h, "bias": bias}
        folded |= {"bias_h": layer["bias_h"]} if settings["cell"] == "gru" else {}
        tensors |= {prefix + name: array for name, array in folded.items()}
    if settings["tie"]:
        tensors["head_kernel"] = np.ascontiguousarray(tensors["embedding"].T)
    settings = settings | {"norm": "none", "input_gate": "own", "tie": False}
    return dataclasses.replace(model, settings=settings, tensors=tensors)


def to_torch(folded: Portable) -> dict[str, np.ndarray]:
    """Returns the tensors of a model that was folded, by PyTorch's names."""
    settings, tensors = folded.settings, folded.tensors
    cell, H = settings["cell"], settings["units"]
    named = {"embedding.weight": tensors["embedding"]} if settings["embed"] else {}
    for n in range(settings["layers"]):
        kernel_x, kernel_h, bias = (tensors[f"{cell}_{n}.{name}"] for name in ("kernel_x", "kernel_h", "bias"))
        bias_h = np.zeros_like(bias)
        if cell == "gru":
            bias_h[2 * H :] = tensors[f"{cell}_{n}.bias_h"]
        weights = {"weight_ih": kernel_x.T, "weight_hh": kernel_h.T, "bias_ih": bias, "bias_hh": bias_h}
        named |= {f"rnn.{name}_l{n}": array for name, array in weights.items()}
    named |= {"head.weight": tensors["head_kernel"].T, "head.bias": tensors["head_bias"]}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in named.items()}


def from_torch(tensors: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the settings and the tensors, by our own names, of a plain model with PyTorch's names. Raises UserError
    where a tensor is missing, unknown or of a wrong shape."""
    layers = len([name for name in tensors if re.fullmatch(r"rnn\.weight_ih_l\d+", name)])
    needed = [f"rnn.weight_{part}_l{n}" for n in range(max(layers, 1)) for part in ("ih", "hh")]
    if missing := [name for name in [*needed, "head.weight"] if name not in tensors]:
        raise UserError(f"no tensor {missing[0]}: expected the names of docs/export.md")
    biases = [f"rnn.bias_{part}_l{n}" for n in range(layers) for part in ("ih", "hh")]
    if unknown := sorted(tensors.keys() - {*needed, *biases, "embedding.weight", "head.weight", "head.bias"}):
        raise UserError(f"tensor {unknown[0]}: expected the names of docs/export.md, of one direction, no projection")
    _check_shapes(tensors, layers)
    (G, H), V = tensors["rnn.weight_hh_l0"].shape, len(tensors["head.weight"])
    cell, embedding = {4: "lstm", 3: "gru"}[G // H], tensors.get("embedding.weight")
    own = {} if embedding is None else {"embedding": embedding}
    for n in range(layers):
        weight_ih, weight_hh = (tensors[f"rnn.weight_{part}_l{n}"] for part in ("ih", "hh"))
        bias, bias_h = (tensors.get(f"rnn.bias_{part}_l{n}", np.zeros(G, np.float32)) for part in ("ih", "hh"))
        layer = {"kernel_x": weight_ih.T, "kernel_h": weight_hh.T, "bias": bias + bias_h}
        if cell == "gru":  # n's part of bias_hh is apart, since r scales it
            layer |= {"bias": np.append((bias + bias_h)[: 2 * H], bias[2 * H :]), "bias_h": bias_h[2 * H :]}
        own |= {f"{cell}_{n}.{name}": array for name, array in layer.items()}
    own |= {"head_kernel": tensors["head.weight"].T, "head_bias": tensors.get("head.bias", np.zeros(V, np.float32))}
    settings = {"cell": cell, "layers": layers, "units": H, "embed": 0 if embedding is None else embedding.shape[1]}
    plain = {"input_gate": "own", "norm": "none", "mogrify": 0, "tie": False, "skip": False, "softmax_head": 0}
    return settings | plain | {"vocab_size": V}, {name: np.ascontiguousarray(array) for name, array in own.items()}


def _check_shapes(tensors: dict[str, np.ndarray], layers: int) -> None:
    """Raises UserError where the shapes of tensors with PyTorch's names do not fit together."""
    for name in {"rnn.weight_hh_l0", "head.weight", "embedding.weight"} & tensors.keys():
        if tensors[name].ndim != 2 or not tensors[name].size:
            raise UserError(f"{name} is {list(tensors[name].shape)}: expected rows and columns")
    (G, H), V = tensors["rnn.weight_hh_l0"].shape, len(tensors["head.weight"])
    if G not in (3 * H, 4 * H):
        raise UserError(f"rnn.weight_hh_l0 is {[G, H]}: expected {[4 * H, H]} of an LSTM or {[3 * H, H]} of a GRU")
    width = tensors["embedding.weight"].shape[1] if "embedding.weight" in tensors else V
    expected: dict[str, tuple[int, ...]] = {"embedding.weight": (V, width), "head.weight": (V, H), "head.bias": (V,)}
    for n in range(layers):
        expected |= {f"rnn.weight_ih_l{n}": (G, H if n else width), f"rnn.weight_hh_l{n}": (G, H)}
        expected |= {f"rnn.bias_{part}_l{n}": (G,) for part in ("ih", "hh")}
    for name, array in tensors.items():
        if array.shape != expected[name]:
            raise UserError(f"{name} is {list(array.shape)}: expected {list(expected[name])}")


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Returns the metadata of a .safetensors file and its tensors in float32, by the names that they have there. Raises
    UserError where it cannot be read."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            for name, array in stored.items():
                if array.dtype not in (np.float32, np.float16, np.float64, np.int8):
                    raise UserError(f"{path}: {name} is {array.dtype}; save it as float32")
            return dict(file.metadata() or {}), dequantise(stored)
    except (TypeError, AttributeError) as error:  # for types that NumPy lacks
        raise UserError(f"{path}: of a type that NumPy lacks, as bfloat16 ({error}); save it as float32") from None
    except ValueError as error:
        raise UserError(f"{path}: int8 tensors whose scales are of other shapes ({error}); export it again") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a .safetensors file that can be read ({error})") from None


def layout_of(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """Returns the layout that a file's metadata names, or that its tensors have."""
    return metadata.get("layout", TORCH if any(name.startswith("rnn.") for name in tensors) else OWN)
