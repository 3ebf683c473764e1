"""python -m benchmarks.keras_fixture: what Keras makes of the article's loss and training step, for the tests.

Writes tests/keras.json, which the tests hold the package's own loss and step against; they need no Keras. A small model
of the article's kind, with weights and batches drawn by numpy: the weights in, then loss and weights after every step,
in Keras's own layout (an LSTM's kernel, recurrent kernel and bias, gates in the order i, f, g, o).
"""

import json
import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np

FILE = Path(__file__).parents[1] / "tests" / "keras.json"
VOCAB, UNITS, LAYERS, ROWS, LENGTH, STEPS = 5, 2, 2, 4, 6, 3


def main() -> None:
    """Makes the file anew."""
    rng, one_hot = np.random.default_rng(0), np.eye(VOCAB, dtype=np.float32)
    model = keras.Sequential([keras.Input((LENGTH, VOCAB))])
    for _ in range(LAYERS):
        model.add(keras.layers.LSTM(UNITS, return_sequences=True))
    model.add(keras.layers.TimeDistributed(keras.layers.Dense(VOCAB, activation="softmax")))
    model.compile(keras.optimizers.Adam(), "binary_crossentropy")  # with its defaults, as in 2019
    model.set_weights([rng.normal(0, 0.5, weight.shape).astype(np.float32) for weight in model.get_weights()])

    fixture = {"keras": keras.version(), "backend": keras.backend.backend(), "weights": _as_lists(model), "steps": []}
    for _ in range(STEPS):
        tokens = rng.integers(VOCAB, size=(ROWS, LENGTH + 1))
        loss = model.train_on_batch(one_hot[tokens[:, :-1]], one_hot[tokens[:, 1:]])
        fixture["steps"].append({"tokens": tokens.tolist(), "loss": float(loss), "weights": _as_lists(model)})

    # From unsure to so sure, and so wrong, that Keras's clipping decides.
    logits = (rng.normal(size=(2, 4, VOCAB)) * np.array([[[0.5], [3], [10], [100]]])).astype(np.float32)
    targets = rng.integers(VOCAB, size=(2, 4))
    # By way of numpy: the softmax's own tensor remembers its logits, and Keras 3 would take them for a sigmoid's; not
    # so within TimeDistributed, as above, nor in 2019.
    probs = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    losses = keras.losses.binary_crossentropy(one_hot[targets], probs)
    loss_alone = {"logits": logits, "targets": targets, "losses": keras.ops.convert_to_numpy(losses)}
    fixture["loss"] = {name: values.tolist() for name, values in loss_alone.items()}
    FILE.write_text(json.dumps(fixture) + "\n")
    print(f"{FILE}: Keras {fixture['keras']} on {fixture['backend']}")


def _as_lists(model: keras.Model) -> list:
    """Rounded to what float32 tells apart."""
    return [[float(f"{x:.9g}") for x in weight.ravel()] for weight in model.get_weights()]


if __name__ == "__main__":
    main()
