"""templates/pytorch_model.py computes what JAX does, and reads and writes texts as the tokenizers do.

Where there is no PyTorch, LSTM and GRU layers of its layout in NumPy stand in for its own.
"""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import expit as sigmoid

import lovecraft_jax.export
from configs import tiny
from lovecraft_jax.config import DataConfig
from lovecraft_jax.data.cleaning import make_cleaning
from lovecraft_jax.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from lovecraft_jax.export.import_run import import_run
from lovecraft_jax.export.safetensors_file import safetensors_bytes
from lovecraft_jax.export.weights import dequantise, portable, quantise, variables_of
from lovecraft_jax.inference.sampling import Sampling
from lovecraft_jax.model.lm import forward, make_model
from lovecraft_jax.run import Run, load_run
from tests.helpers.small_runs import LEVELS
from tests.helpers.untrained import random_variables

TEMPLATE = Path(lovecraft_jax.export.__file__).parent / "templates" / "pytorch_model.py"
TEXT = "The old house, it's\n\nOLD and SEEMED rather old 12 the house\nthe hounds barking the don't house"
UNCLEANED = "The \u201cold\u201d house\u2014it\u2019s\r\nna\u00efve: the hounds \u2603barking\u200b"
PLAIN: tuple[dict[str, Any], ...] = (
    {},
    {"embed": 5},
    {"embed": 16, "tie": True},
    {"norm": "batch_input", "embed": 5},
    {"norm": "batch_input"},
    {"cell": "gru", "embed": 5},
    {"cell": "gru", "layers": 1},
)
OWN: tuple[dict[str, Any], ...] = (
    {"input_gate": "capped", "norm": "rms_gates", "embed": 5},
    {"input_gate": "coupled", "norm": "layer_gates", "skip": True},
    {"norm": "layer", "embed": 5, "skip": True},
    {"norm": "batch", "input_gate": "coupled"},
    {"norm": "batch_input", "input_gate": "capped", "embed": 5},
    {"embed": 5, "mogrify": 3, "norm": "rms_gates", "skip": True, "tie": True},
    {"embed": 5, "mogrify": 2},
    {"cell": "gru", "skip": True, "embed": 5, "tie": True},
    {"cell": "gru", "embed": 16, "tie": True, "softmax_head": 3},
    {"softmax_head": 4, "embed": 5},
    {"softmax_head": 4, "embed": 5, "tie": True, "skip": True},
)


@pytest.fixture(scope="module")
def template() -> ModuleType:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("pytorch_model", TEMPLATE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(level: str = "chars", scale: float = 0.4, **changes: Any) -> Run:
    """A run of a small model with these settings and random weights."""
    config = tiny.get_config()
    config.data.update(LEVELS[level])
    config.model.update(changes)
    tokenizer = _tokenizer(level)
    model = make_model(config, tokenizer.size)
    return Run(config, tokenizer, model, random_variables(model, scale), 7, {"characters": {}})


def _tokenizer(level: str, alphabet: str = "ascii") -> Tokenizer:
    cleaning = make_cleaning(alphabet)
    config = DataConfig(corpus="bundled", regime="stream", alphabet=alphabet, seq_len=1, batch_size=1, **LEVELS[level])
    return build_tokenizer(config, cleaning.apply(TEXT)[0], cleaning)


def _ids(V: int) -> np.ndarray:
    return np.random.default_rng(0).integers(V, size=(3, 8))


def _jax_logits(run: Run, dtype: str = "float32") -> np.ndarray:
    """The logits of `_ids` by JAX, with the weights as they are stored."""
    variables = variables_of(dequantise(quantise(portable(run).tensors, dtype)))
    ids_BT = _ids(run.tokenizer.size)
    return np.asarray(forward(run.model, variables, run.model.initial_carry(len(ids_BT)), ids_BT)[1])


def _saved(run: Run, path: Path, dtype: str = "float32") -> Path:
    (path / "model.safetensors").write_bytes(safetensors_bytes(portable(run), dtype))
    return path / "model.safetensors"


@pytest.mark.parametrize("changes", PLAIN, ids=str)
def test_layers_of_pytorchs_layout_compute_jaxs_logits(changes: dict[str, Any], tmp_path: Path) -> None:
    run = _run(**changes)
    tensors = safetensors.numpy.load_file(_saved(run, tmp_path))
    logits_BTV = _numpy_logits(tensors, _ids(run.tokenizer.size))
    np.testing.assert_allclose(logits_BTV, _jax_logits(run), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [*PLAIN, *OWN], ids=str)
def test_pytorch_gives_jaxs_logits_and_goes_on_from_a_carry(
    changes: dict[str, Any], template: ModuleType, tmp_path: Path
) -> None:
    run = _run(**changes)
    model, _ = template.load(_saved(run, tmp_path))
    assert isinstance(model, template.PlainModel) is (changes in PLAIN)
    ids_BT = template.torch.from_numpy(_ids(run.tokenizer.size))
    (begin_BTV, carry), expected_BTV = model(ids_BT[:, :3]), _jax_logits(run)
    rest_BTV, _ = model(ids_BT[:, 3:], carry)
    logits_BTV = template.torch.cat([begin_BTV, rest_BTV], 1).detach().numpy()
    np.testing.assert_allclose(logits_BTV, expected_BTV, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("changes", [{"embed": 5}, {"embed": 5, "norm": "rms_gates", "tie": True}], ids=str)
def test_pytorch_computes_in_float32_with_weights_of_fewer_bits(
    dtype: str, changes: dict[str, Any], template: ModuleType, tmp_path: Path
) -> None:
    run = _run(**changes)
    model, _ = template.load(_saved(run, tmp_path, dtype))
    logits_BTV = model(template.torch.from_numpy(_ids(run.tokenizer.size)))[0].detach().numpy()
    np.testing.assert_allclose(logits_BTV, _jax_logits(run, dtype), rtol=0, atol=1e-5)
    assert np.abs(logits_BTV - _jax_logits(run)).max() > 1e-5


@pytest.mark.parametrize(
    "changes", [{"embed": 5}, {"cell": "gru"}, {"embed": 5, "norm": "batch", "tie": True}], ids=str
)
def test_what_was_trained_in_pytorch_and_saved_comes_back_as_a_run(
    changes: dict[str, Any], template: ModuleType, tmp_path: Path
) -> None:
    torch, exported = template.torch, portable(run := _run(**changes))
    exported.facts["metrics"] = [{"split": "test", "scoring": "final", "bpc": 1.7}]
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(exported))
    model, _ = template.load(tmp_path / "model.safetensors")
    assert model.state_dict().keys() == safetensors.numpy.load_file(tmp_path / "model.safetensors").keys()
    optimizer, ids_BT = torch.optim.SGD(model.parameters(), lr=0.1), torch.from_numpy(_ids(run.tokenizer.size))
    _, carry = model(ids_BT)
    losses = []
    for _ in range(3):
        logits_BTV, _ = model(ids_BT[:, :-1], template.detach(carry))
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    template.save(model, tmp_path / "trained.safetensors")
    back = load_run(str(import_run(tmp_path / "trained.safetensors", str(tmp_path / "back"))))
    expected_BTV = model(ids_BT)[0].detach().numpy()
    np.testing.assert_allclose(_jax_logits(back), expected_BTV, rtol=0, atol=1e-5)
    with safetensors.safe_open(tmp_path / "trained.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["facts"])["metrics"] == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("alphabet", ["ascii", "unicode"])
def test_texts_have_the_ids_of_lovecraft_jax_and_come_back_from_them(
    level: str, alphabet: str, template: ModuleType
) -> None:
    saved = json.loads(_tokenizer(level, alphabet).dumps())
    if level == "cluster":  # in so short a text all rare words are in one
        saved["clusters"] = [n % 16 for n in range(len(saved["counts"]))]
    tokenizer, theirs = load_tokenizer(json.dumps(saved)), template.make_tokenizer(saved)
    for text in (TEXT, UNCLEANED if alphabet == "ascii" else UNCLEANED + " नमस्ते", "\n\n  The  OLD is\u0301 us", ""):
        cleaned, _ = tokenizer.cleaning.apply(text)
        assert theirs.clean(text) == cleaned
        if level == "cluster" and text is not TEXT:
            continue
        ids = tokenizer.encode(cleaned).ids
        assert theirs.encode(text) == ids.tolist()
        if level in ("chars", "bpe"):
            assert theirs.decode(ids.tolist()) == tokenizer.decode(ids)
    assert theirs.start_id == tokenizer.start_id
    assert theirs.prompt("the old") == tokenizer.encode_prompt("the old").ids.tolist()
    assert theirs.prompt("") == [tokenizer.start_id]


def test_words_that_only_lovecraft_jax_can_spell_are_marked(template: ModuleType) -> None:
    saved = (json.loads(_tokenizer(level).dumps()) for level in ("spell", "cluster"))
    spelled, clusters = map(template.make_tokenizer, saved)
    assert spelled.decode(spelled.encode("the house Xyz unending")) == "[rare: word] house [rare: Capital] [rare: ing]"
    with pytest.raises(ValueError, match="' zzz' is not in the training text: only lovecraft_jax"):
        clusters.encode("the zzz")


@pytest.mark.parametrize("level", ["chars", "bpe", "drop"])
def test_greedy_text_is_that_of_jax(level: str, template: ModuleType, tmp_path: Path) -> None:
    run = _run(level, scale=1.0, embed=5)
    prompt = "The old" if level == "chars" else ""  # else JAX would take its last word for a beginning
    (expected,) = run.generate(prompt, length=40, sampling=Sampling(temperature=0))
    assert len(set(expected)) > 4
    assert template.generate(*template.load(_saved(run, tmp_path)), prompt, length=40, temperature=0) == expected


def test_the_command_continues_a_prompt_the_same_for_the_same_seed(
    template: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, texts = str(_saved(_run(), tmp_path)), []
    for seed in ("1", "1", "2"):
        monkeypatch.setattr("sys.argv", ["pytorch_model.py", path, "The old", "--length=30", f"--seed={seed}"])
        monkeypatch.setattr("sys.stdout", output := io.StringIO())
        template.main()
        texts.append(output.getvalue())
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The old")
    assert len(texts[0]) == len("The old") + 30 + len("\n")


def _numpy_logits(tensors: dict[str, np.ndarray], ids_BT: np.ndarray) -> np.ndarray:
    """The logits [B, T, V] by the equations in the documentation of torch.nn.LSTM and torch.nn.GRU, in float64."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    table_VD = tensors.get("embedding.weight", np.eye(len(tensors["head.bias"])))
    x_TBD, layer = table_VD[ids_BT.T], 0
    while f"rnn.weight_ih_l{layer}" in tensors:
        weight_ih, weight_hh = (tensors[f"rnn.weight_{part}_l{layer}"] for part in ("ih", "hh"))
        bias_ih, bias_hh = (tensors[f"rnn.bias_{part}_l{layer}"] for part in ("ih", "hh"))
        h = c = np.zeros((len(ids_BT), weight_hh.shape[1]))
        step: Callable[..., Any] = _lstm if len(weight_hh) == 4 * h.shape[1] else _gru
        outputs = []
        for x_BD in x_TBD:
            h, c = step(x_BD @ weight_ih.T + bias_ih, h @ weight_hh.T + bias_hh, h, c)
            outputs.append(h)
        x_TBD, layer = np.stack(outputs), layer + 1
    return (x_TBD @ tensors["head.weight"].T + tensors["head.bias"]).swapaxes(0, 1)


def _lstm(from_x: np.ndarray, from_h: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, g, o = np.split(from_x + from_h, 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def _gru(from_x: np.ndarray, from_h: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(from_x, 3, axis=1), np.split(from_h, 3, axis=1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return (1 - z) * np.tanh(x_n + r * h_n) + z * h, c
