/** The language model, one token at a time: lovecraft_jax/model/lm.py with the weights of a safetensors file. */

import { GruLayer } from "./gru.js";
import { Kernel } from "./kernel.js";
import { LstmLayer } from "./lstm.js";
import { AdaptiveSoftmax, FullSoftmax } from "./softmax.js";

/**
 * What a model has read: the state of each layer, its arrays by name.
 * @typedef {Object<string, Float64Array>[]} State
 */

/** What this program can compute, by cell. */
const KNOWN = {
  lstm: {
    input_gate: ["own", "capped", "coupled"],
    norm: ["none", "layer", "batch_input", "batch", "layer_gates", "rms_gates"],
  },
  gru: { input_gate: ["own"], norm: ["none"], mogrify: [0] },
};

export class Model {
  /**
   * @param {object} settings - cell, input_gate, norm, mogrify, layers, units, embed, tie, skip, softmax_head and
   *   vocab_size.
   * @param {Object<string, import("./safetensors.js").Tensor>} tensors - By Flax's names, joined with dots.
   */
  constructor(settings, tensors) {
    checkSettings(settings);
    const { vocab_size: V, layers, units, embed, tie, skip, softmax_head: head } = settings;
    const weightsOf = (prefix) => (name) => {
      const tensor = tensors[prefix + name];
      if (!tensor) throw new Error(`the weights have no tensor ${prefix + name}`);
      return tensor.values;
    };
    const weights = weightsOf("");
    this.settings = settings;
    const embedding = embed ? weights("embedding") : null;
    const tokens = { vocabSize: V, width: embed || V, embedding };
    const Layer = settings.cell === "gru" ? GruLayer : LstmLayer;
    this.layers = Array.from({ length: layers }, (_, n) => {
      const ofLayer = weightsOf(`${settings.cell}_${n}.`);
      return new Layer(settings, ofLayer, n ? units : 0, n === 0 || skip ? tokens : null);
    });
    const hiddenWidth = skip ? layers * units : units;
    this.hidden = new Float64Array(hiddenWidth);
    const isProjected = tie && embed !== hiddenWidth;
    this.projection = isProjected ? Kernel.ofRows(weights("head_projection"), embed, 0, hiddenWidth) : null;
    const width = tie ? embed : hiddenWidth;
    const shared = tie ? embedding : null;
    if (head > 0 && head < V) {
      this.head = new AdaptiveSoftmax(V, head, width, weightsOf("head."), shared);
    } else {
      const kernel = tie
        ? Kernel.ofTransposedRows(shared, width, 0, V)
        : Kernel.ofRows(weights("head_kernel"), V, 0, width);
      this.head = new FullSoftmax(kernel, weights("head_bias"));
    }
    this.logits = new Float32Array(V);
  }

  /** @returns {State} */
  initialState() {
    return this.layers.map((layer) => layer.initialState());
  }

  /**
   * @param {State} state
   * @returns {State}
   */
  copyState(state) {
    const copy = (layer) => Object.fromEntries(Object.entries(layer).map(([name, array]) => [name, array.slice()]));
    return state.map(copy);
  }

  /**
   * Reads a token: changes the state in place.
   * @param {State} state
   * @param {number} id
   */
  advance(state, id) {
    let below = null;
    this.layers.forEach((layer, n) => {
      layer.step(state[n], below, id);
      below = state[n].h;
    });
  }

  /**
   * Reads a token, and returns the logits of the next one, log-probabilities for an adaptive softmax, in an array that
   * the next call uses again.
   * @param {State} state - It is changed in place.
   * @param {number} id
   * @returns {Float32Array} [V]
   */
  step(state, id) {
    this.advance(state, id);
    let hidden = state.at(-1).h;
    if (this.settings.skip) {
      hidden = this.hidden;
      state.forEach(({ h }, n) => hidden.set(h, n * h.length));
    }
    this.head.write(this.projection ? this.projection.multiply(hidden) : hidden, this.logits);
    return this.logits;
  }
}

/** Throws an Error where this program would compute something else than the model does. */
function checkSettings(settings) {
  for (const [name, known] of Object.entries({ cell: Object.keys(KNOWN), ...KNOWN[settings.cell] })) {
    if (known.includes(settings[name])) continue;
    throw new Error(`the model has ${name} ${JSON.stringify(settings[name])}: expected ${known.join(" or ")}`);
  }
}
