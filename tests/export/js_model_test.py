"""The page's model in JavaScript against JAX: the same weights, logits, samples, texts and surprisals."""

import codecs
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lovecraft_jax.data.bpe_tokenizer import BpeTokenizer
from lovecraft_jax.data.char_tokenizer import CharTokenizer
from lovecraft_jax.data.encoded import UNKNOWN_ID
from lovecraft_jax.data.word_tokenizer import WordTokenizer
from lovecraft_jax.export.safetensors_file import own_bytes, read_file
from lovecraft_jax.export.weights import DTYPES, portable
from lovecraft_jax.inference.sampling import Sampling, sample_token
from lovecraft_jax.model.lm import forward
from lovecraft_jax.probing.surprisal import token_surprisals
from lovecraft_jax.run import Run
from tests.helpers.small_runs import TEXT, UNICODE, UNITS, make_run, small_run

pytestmark = [pytest.mark.skipif(not shutil.which("node"), reason="no Node.js"), pytest.mark.usefixtures("unoptimized")]
SCRIPT = Path(__file__).with_name("js_model.mjs")
V, N = 23, 1000
GREEDY = {"temperature": 0.0, "topK": 0, "topP": 1.0, "seed": 0}

Node = Callable[..., Any]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Runs a job of js_model.mjs and returns its result."""

    def run(name: str, **job: Any) -> Any:
        file = tmp_path / "job.json"
        file.write_text(json.dumps({"run": name, **job}))
        command = ["node", str(SCRIPT), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def store(run: Run, path: Path, dtype: str = "float32") -> str:
    path.write_bytes(own_bytes(portable(run), dtype))
    return str(path)


def letters(count: int) -> CharTokenizer:
    """A tokenizer of so many ids."""
    return CharTokenizer.of("".join(map(chr, range(0x100, 0xFF + count))), UNICODE)


@pytest.mark.parametrize(
    ("dtype", "ids", "embed"), [*((dtype, V, 6) for dtype in DTYPES), ("int8", V, 1), ("int8", 1, 6)]
)
def test_weights_are_read_bit_by_bit_as_python_reads_them(
    dtype: str, ids: int, embed: int, node: Node, tmp_path: Path
) -> None:
    run = make_run(letters(ids), 1e-3, embed=embed)  # some float16 are subnormal
    path = store(run, tmp_path / "model", dtype)
    metadata, tensors = read_file(path)
    found = node("tensors", weights=path, out=str(tmp_path / "out"))
    assert found["metadata"] == metadata
    assert found["shapes"] == [[name, list(tensors[name].shape)] for name in sorted(tensors)]
    expected = np.concatenate([tensors[name].ravel() for name in sorted(tensors)])
    assert (tmp_path / "out").read_bytes() == expected.tobytes()


def test_a_file_that_is_not_the_models_is_an_error_that_says_what_is_wrong(node: Node, tmp_path: Path) -> None:
    settings, path = portable(make_run(letters(V))).settings, tmp_path / "model"
    gates = "the model has input_gate"
    for kind, changed, message in (
        (np.float64, {}, "embedding has the type F64: expected F32, F16 or I8"),
        (np.float32, {}, "the weights have no tensor lstm_0.bias"),
        (np.float32, {"cell": "mlstm"}, 'the model has cell "mlstm": expected lstm or gru'),
        (np.float32, {"input_gate": "exp"}, f'{gates} "exp": expected own or capped or coupled'),
        (np.float32, {"cell": "gru", "input_gate": "capped"}, f'{gates} "capped": expected own'),
        (np.float32, {"cell": "gru", "norm": "layer"}, 'the model has norm "layer": expected none'),
    ):
        metadata = {"settings": json.dumps(settings | changed)}
        path.write_bytes(safetensors.numpy.save({"embedding": np.zeros((V, 6), kind)}, metadata))
        assert node("error", weights=str(path)) == message


# With larger weights so many units are chaotic: a rounding error grows.
LARGE = {"vocab_size": 4000, "units": 66, "layers": 1, "softmax_head": 300, "scale": 0.2}
QUICK: tuple[dict[str, Any], ...] = (
    {"embed": 0},
    {"skip": True, "norm": "rms_gates", "input_gate": "capped"},
)
SLOW: tuple[dict[str, Any], ...] = (
    {"tie": True, "skip": True, "norm": "layer_gates", "input_gate": "coupled"},
    {"tie": True, "embed": UNITS, "norm": "layer"},
    {"skip": True, "norm": "batch", "input_gate": "capped"},
    {"embed": 0, "skip": True, "norm": "batch_input", "layers": 3},
    {"tie": True, "skip": True, "mogrify": 3},
    {"norm": "rms_gates", "input_gate": "coupled", "mogrify": 2, "softmax_head": 4},
    {"tie": True, "skip": True, "softmax_head": 3, "cell": "gru"},
    {"embed": 0, "layers": 1, "cell": "gru"},
    LARGE,
    LARGE | {"tie": True, "skip": True},
)


@pytest.mark.parametrize("settings", [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)], ids=str)
def test_logits_equal_those_of_jax_over_1000_tokens(settings: dict[str, Any], node: Node, tmp_path: Path) -> None:
    others = dict(settings)
    size = others.pop("vocab_size", V)
    run = make_run(letters(size), **others)
    ids = np.random.default_rng(1).integers(size, size=N)
    node("logits", weights=store(run, tmp_path / "model"), ids=ids.tolist(), out=str(tmp_path / "out"))
    logits_NV = np.fromfile(tmp_path / "out", np.float32).reshape(N, size)
    _, expected_BNV = jax.jit(forward, static_argnums=0)(
        run.model, run.variables, run.model.initial_carry(1), ids[None]
    )
    assert np.max(np.std(expected_BNV[0], axis=0)) > 0.05  # what is read matters
    np.testing.assert_allclose(logits_NV, expected_BNV[0], rtol=0, atol=2e-5)


SAMPLINGS = (
    Sampling(0.0),
    Sampling(1.0),
    Sampling(0.3, top_k=5),
    Sampling(2.0, top_p=0.8),
    Sampling(1.0, top_k=7, top_p=0.9),
    Sampling(1.0, top_k=1),
    Sampling(1e-3, top_p=1e-3),
    Sampling(1.0, top_k=1000),
)


@pytest.mark.slow
def test_the_same_token_is_sampled_as_by_jax_from_the_same_logits_and_number(node: Node) -> None:
    rng = np.random.default_rng(2)
    logits_SV = rng.normal(0, 2, (300, 50)).astype(np.float32)
    logits_SV[::3] = np.round(logits_SV[::3])  # equal ones: the first are kept
    logits_SV[:, 0] = 9  # the unknown is the likeliest
    uniform_S = rng.random(300).astype(np.float32)
    given = [{"temperature": one.temperature, "topK": one.top_k, "topP": one.top_p} for one in SAMPLINGS]
    for allowed_V in (np.ones(50, bool), rng.random(50) < 0.4):
        rows = {"rows": logits_SV.tolist(), "uniform": uniform_S.tolist(), "allowed": allowed_V.astype(int).tolist()}
        allowed_SV = jnp.asarray(np.where(allowed_V[None], logits_SV, -np.inf))
        for sampling, found in zip(SAMPLINGS, node("sample", samplings=given, **rows), strict=True):
            assert found == sample_token(allowed_SV, jnp.asarray(uniform_S), sampling).tolist(), sampling


def test_random_numbers_are_those_of_xoshiro128_seeded_by_splitmix(node: Node) -> None:
    def mix(bits: int) -> int:
        bits = (bits ^ bits >> 16) * 0x85EBCA6B & 0xFFFFFFFF
        bits = (bits ^ bits >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
        return bits ^ bits >> 16

    for seed in (0, 1, 2**32 - 1):
        state, numbers = node("random", seed=seed, count=10)
        assert state == [mix((seed + n * 0x9E3779B9) & 0xFFFFFFFF) for n in range(1, 5)]
    # What the authors' C code gives from the state 1, 2, 3, 4.
    known = [11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804]
    assert numbers == known


RUNS = ("chars", "bpe", "words", "words, no rare ones")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RUNS, "normed"])
def test_greedy_text_is_that_of_jax(name: str, node: Node, tmp_path: Path) -> None:
    run, prompts = small_run(name), ["Nobody", "the hou"]
    length = 1000 if name in ("chars", "normed") else 200
    texts = node("generate", weights=store(run, tmp_path / "model"), prompts=prompts, length=length, sampling=GREEDY)
    for prompt, text in zip(prompts, texts, strict=True):
        (expected,) = run.generate(prompt, length, 0, Sampling(temperature=0.0))
        # The page does not show a character whose last bytes have not been generated.
        assert text == expected or (expected.endswith("\ufffd") and text == expected[:-1])
        assert len(set(text)) > 2  # it goes on otherwise than by one character


@pytest.mark.slow
def test_sampling_may_change_while_a_text_is_written_and_the_seed_decides_it(node: Node, tmp_path: Path) -> None:
    weights = store(small_run("chars"), tmp_path / "model")
    wild = GREEDY | {"temperature": 1.5}
    given = [(wild, {}), (wild, {}), (wild | {"seed": 1}, {}), (GREEDY, {}), (GREEDY, {40: {"temperature": 1.5}})]
    given += [(wild, {0: {"topK": 1}})]
    whole, again, other, careful, changed, one = (
        node("generate", weights=weights, prompts=["The"], length=80, sampling=sampling, changes=changes)[0]
        for sampling, changes in given
    )
    assert again == whole
    assert len({whole, other, careful}) == 3
    assert changed[:40] == careful[:40]
    assert changed[40:] != careful[40:]
    assert one == careful


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_surprisals_are_those_of_jax_and_their_tokens_are_the_text(name: str, node: Node, tmp_path: Path) -> None:
    run, text = small_run(name), TEXT[60:] + "A xylophone, unseen: \u2603\n" + "the walking oldest 1928 Xy'z\n" * 3
    (found,) = node("read", weights=store(run, tmp_path / "model"), texts=[text])
    assert "".join(token["text"] for token in found["tokens"]) == text
    bits_N = np.array([token["bits"] for token in found["tokens"]])
    (expected_N,) = token_surprisals(run, [text])
    assert bits_N.sum() == pytest.approx(expected_N.sum(), rel=1e-5)
    if name != "words, no rare ones":  # JAX counts these with the tokens that follow
        np.testing.assert_allclose(bits_N, expected_N, atol=1e-4)


def test_a_reader_computes_only_what_follows_an_edit_and_finds_what_a_new_one_does(node: Node, tmp_path: Path) -> None:
    weights = store(small_run("chars"), tmp_path / "model")
    long = (TEXT * 3)[:900]
    texts = [long, long + "T", long + "Th", long + "The", long, long[:500] + "sea" + long[500:], long[:501]]
    texts += ["", "sea", long[3:], long[3:] + "a", long[3:-200] + "b", long * 12, long * 11, long[:40]]
    found, slices = node("read", weights=weights, texts=texts), node("read", weights=weights, texts=texts, slice=7)
    for one, sliced, fresh in zip(found, slices, node("read", weights=weights, texts=texts, isFresh=True), strict=True):
        assert one["tokens"] == sliced["tokens"] == fresh["tokens"]
        assert one["continuations"] == sliced["continuations"] == fresh["continuations"]
        assert one["advanced"] == sliced["advanced"]
        assert sliced["shares"] == sorted(sliced["shares"])
        assert one["states"] <= min(256, len(one["tokens"]) / 32) + 2 + 32
    advanced = [one["advanced"] for one in found]
    assert max(advanced[1:4] + advanced[10:11]) <= 3, "a character at the end, and what follows it"
    assert advanced[4] <= 3, "a deletion at the end"
    assert advanced[5] <= 32 + 403 + 3
    assert advanced[6] <= 32 + 3


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS[1:])
def test_the_likeliest_cut_of_a_prompt_is_continued(name: str, node: Node, tmp_path: Path) -> None:
    run, prompts = small_run(name), [TEXT[:end] for end in range(1, 120)]
    next_probs, expected, seen = next_probs_of(run), [], set()
    for prompt in prompts:
        encoded = run.tokenizer.encode_prompt(prompt)
        ids = encoded.ids.tolist()
        probs_TV = next_probs(ids)
        of_ids_T = np.concatenate([[1.0], np.cumprod([probs_TV[n, one] for n, one in enumerate(ids[1:])])])
        log_probs = [
            math.log(of_ids_T[cut.kept - 1]) + math.log(probs_TV[cut.kept - 1][cut.allowed_V].sum()) - cut.nats
            for cut in encoded.cuts
        ]
        best = int(np.argmax(log_probs))
        seen.add(best)
        expected.append([ids[encoded.cuts[best].kept - 1], len(encoded.cuts[best].begun)])
    assert node("cut", weights=store(run, tmp_path / "model"), prompts=prompts) == expected
    assert len(seen) > 1


def test_characters_of_several_tokens_are_shown_when_they_are_complete(node: Node, tmp_path: Path) -> None:
    run = make_run(BpeTokenizer.of(TEXT, UNICODE, 257))  # tokens are single bytes
    some = run.tokenizer.encode("é—").ids
    run.variables["params"]["head_bias"][some] += 9
    sampling = {"temperature": 1.0, "topK": 0, "topP": 1.0, "seed": 3}
    found = node("bytes", weights=store(run, tmp_path / "model"), length=300, sampling=sampling)
    text = "".join(found["parts"])
    assert codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(found["bytes"])) == text
    assert {"é", "\ufffd"} <= set(text)
    assert found["parts"].count("") > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_continuations_are_those_of_all_ways_to_go_on(name: str, node: Node, tmp_path: Path) -> None:
    run, prompts = small_run(name), ["the hou", "An", "the wal", "zyx", "the thing's", "the sea    ", ""]
    found = node("read", weights=store(run, tmp_path / "model"), texts=prompts)
    for probability_of, read in zip(continuations_of(run, prompts), found, strict=True):
        continuations = read["continuations"]
        assert all(one["isClass"] <= name.startswith("words") for one in continuations)
        # A class of rare words, or some bytes of a character, have no text of their own.
        shown = {one["text"]: one["probability"] for one in continuations if one["text"] in probability_of}
        assert not any(one["isClass"] for one in continuations if one["text"] in shown)
        assert len(shown) >= 3
        assert shown == pytest.approx({text: probability_of[text] for text in shown}, abs=1e-3)
        others = sorted((probability_of[text] for text in probability_of.keys() - shown.keys() - {""}), reverse=True)
        assert others[:1] <= [min(shown.values()) + 1e-6]
        probabilities = [one["probability"] for one in continuations]
        assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.slow
def test_characters_are_completed_to_the_likeliest_words_that_begin_with_them(node: Node, tmp_path: Path) -> None:
    run, text = small_run("chars"), "Nobody walked to the hou"
    tokenizer, next_probs = run.tokenizer, next_probs_of(run)
    first, last = node("complete", weights=store(run, tmp_path / "model"), text=text)
    probabilities = [word["probability"] for word in last]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {word["text"][0] for word in last} == {letter["text"] for letter in first}
    for word in last:
        ids = [tokenizer.start_id, *tokenizer.encode(text + word["text"]).ids.tolist()]
        probs_NV = next_probs(ids)[len(text) :]
        expected = math.prod(probs_NV[n, one] for n, one in enumerate(ids[len(text) + 1 :]))
        assert word["probability"] == pytest.approx(expected / (1 - probs_NV[0, UNKNOWN_ID]), rel=1e-3)
        greedy = tokenizer.decode(1 + probs_NV[1:, 1:].argmax(axis=1))
        assert greedy.startswith(word["text"][1:])
        is_word = word["text"][-1].isalnum()
        assert not is_word or len(word["text"]) == 20 or not greedy[-1].isalnum()
    assert max(len(word["text"]) for word in last) > 2


def test_the_worker_answers_within_a_prompt_and_a_text_and_computes_continuations_once(
    node: Node, tmp_path: Path
) -> None:
    """With a clock by which every token takes half a slice."""
    found = node("slices", weights=store(small_run("chars"), tmp_path / "model"), text=TEXT)
    assert 0 < found["advancedBeforePause"] < 20
    assert found["afterPause"] == 0
    assert found["written"] == 20
    assert found["shares"] > len(TEXT) / 3
    assert found["continuations"] == 1


def next_probs_of(run: Run, longest: int = 120) -> Callable[[list[int]], np.ndarray]:
    """A function that returns the probabilities of the token after each of a few ids [N, V], from a zero carry."""
    carry = run.model.initial_carry(1)
    forward_row = jax.jit(lambda ids_T: forward(run.model, run.variables, carry, ids_T[None])[1][0])

    def next_probs(ids: list[int]) -> np.ndarray:
        logits_TV = forward_row(np.array(ids + [0] * (longest - len(ids)), np.int32))
        return np.asarray(jax.nn.softmax(logits_TV), np.float64)[: len(ids)]

    return next_probs


def continuations_of(run: Run, prompts: list[str]) -> list[dict[str, float]]:
    """The probability of each text that a next token can add to a prompt; "" is what has no text."""
    tokenizer, all_next_probs = run.tokenizer, next_probs_of(run)

    def next_probs(ids: list[int]) -> np.ndarray:
        return all_next_probs(ids)[-1]

    def text_of(one: int) -> bytes:
        is_class = isinstance(tokenizer, WordTokenizer) and one < tokenizer.first_word
        return b"" if is_class or one == 0 else tokenizer.generated_bytes(np.array([one]))

    def all_of(prompt: str) -> Iterator[tuple[bytes, float]]:
        encoded = tokenizer.encode_prompt(prompt)
        ids = encoded.ids.tolist()
        if not encoded.cuts:
            probs = next_probs([tokenizer.start_id, *ids] if prompt else ids)
            yield from ((text_of(one), probs[one]) for one in range(1, len(probs)))
        for kept, begun, allowed_V, nats in encoded.cuts:
            factor = math.exp(-nats) * math.prod(next_probs(ids[:n])[ids[n]] for n in range(1, kept))
            after = factor * next_probs(ids[:kept])
            for one in np.flatnonzero(allowed_V).tolist():
                if begun and text_of(one) == begun:
                    yield from ((text_of(n), after[one] * p) for n, p in enumerate(next_probs([*ids[:kept], one])))
                else:
                    yield text_of(one)[len(begun) :], after[one]

    def probabilities(prompt: str) -> dict[str, float]:
        weights: dict[str, float] = {}
        for added, weight in all_of(prompt):
            try:
                text = added.decode()
            except UnicodeDecodeError:
                text = ""
            weights[text] = weights.get(text, 0.0) + float(weight)
        return {text: weight / sum(weights.values()) for text, weight in weights.items()}

    return list(map(probabilities, prompts))
