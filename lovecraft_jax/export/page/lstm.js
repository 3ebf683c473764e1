/** The LSTM layer with its input gates, norms and Mogrifier, as lovecraft_jax/model/lstm.py describes them. */

import { affineOfNorm, normalise, sigmoid } from "./activations.js";
import { Kernel, addTo, scaleColumns } from "./kernel.js";
import { LayerInput } from "./layer_input.js";
import { Mogrifier } from "./mogrifier.js";

/** Its state is { c: [H], h: [H] }. */
export class LstmLayer {
  /**
   * @param {object} settings - Those of the model.
   * @param {(name: string) => Float32Array} weights - The layer's tensors by name.
   * @param {number} below - The width of the layer below's output.
   * @param {import("./layer_input.js").Tokens | null} tokens
   */
  constructor(settings, weights, below, tokens) {
    const { norm, units, mogrify } = settings;
    this.units = units;
    this.inputGate = settings.input_gate;
    this.norm = norm;
    this.bias = Float64Array.from(weights("bias"));
    this.gates = new Float64Array(this.bias.length);
    const columns = this.gates.length;

    let kernelX = weights("kernel_x");
    let kernelH = weights("kernel_h");
    const affine = (part) => affineOfNorm(...["mean", "variance", "scale"].map((kind) => weights(`${kind}_${part}`)));
    if (norm === "batch" || norm === "batch_input") {
      const { factors, shifts } = affine("x");
      kernelX = scaleColumns(kernelX, factors);
      addTo(this.bias, shifts);
    }
    if (norm === "batch") {
      const { factors, shifts } = affine("h");
      kernelH = scaleColumns(kernelH, factors);
      addTo(this.bias, shifts);
      this.affineOfC = affine("c");
    }
    const parts = { layer: ["x", "h", "c"], layer_gates: ["z"], rms_gates: ["z"] }[norm] ?? [];
    this.scales = Object.fromEntries(parts.map((part) => [part, weights(`scale_${part}`)]));
    this.normalisedC = new Float64Array(units);
    if (norm === "batch" || norm === "layer") this.shiftOfC = weights("shift_c");

    this.kernelH = Kernel.ofRows(kernelH, columns, 0, units);
    if (mogrify) this.mogrifier = new Mogrifier(mogrify, weights, kernelX, columns, units, below, tokens);
    else this.input = new LayerInput(kernelX, columns, below, tokens);
  }

  initialState() {
    return { c: new Float64Array(this.units), h: new Float64Array(this.units) };
  }

  /**
   * Computes one time step, in place.
   * @param {{ c: Float64Array, h: Float64Array }} state
   * @param {Float64Array | null} below - The layer below's output.
   * @param {number} id - The token.
   */
  step(state, below, id) {
    const { gates, units: H, inputGate } = this;
    this.computeGates(state.h, below, id);
    const { c, h } = state;
    const f = gates.length - 3 * H; // the gates are i, f, g, o, or f, g, o
    const g = f + H;
    const o = g + H;
    for (let n = 0; n < H; n++) {
      const forget = sigmoid(gates[f + n]);
      let input = 1 - forget;
      if (inputGate === "own") input = sigmoid(gates[n]);
      else if (inputGate === "capped") input = Math.min(sigmoid(gates[n]), input);
      c[n] = forget * c[n] + input * Math.tanh(gates[g + n]);
    }
    const normal = this.normaliseC(c);
    for (let n = 0; n < H; n++) h[n] = sigmoid(gates[o + n]) * Math.tanh(normal[n]);
  }

  /** Computes the gates before their activations. */
  computeGates(h, below, id) {
    const { gates, units: H, norm, scales, bias } = this;
    let gatesX;
    if (this.mogrifier) {
      this.mogrifier.modulate(h, below, id);
      gatesX = this.mogrifier.gates();
      h = this.mogrifier.h;
    } else {
      gatesX = this.input.gates(below, id);
    }
    const gatesH = this.kernelH.multiply(h);
    if (norm === "layer") {
      normalise(gatesX, 0, gates.length, scales.x, true);
      normalise(gatesH, 0, gates.length, scales.h, true);
    }
    for (let n = 0; n < gates.length; n++) gates[n] = gatesX[n] + gatesH[n];
    if (norm === "layer_gates" || norm === "rms_gates") {
      for (let n = 0; n < gates.length; n += H) normalise(gates, n, n + H, scales.z, norm === "layer_gates");
    }
    addTo(gates, bias);
  }

  /** Returns c as the output takes it. */
  normaliseC(c) {
    const { norm, normalisedC: normal, shiftOfC: shifts } = this;
    if (norm !== "layer" && norm !== "batch") return c;
    normal.set(c);
    if (norm === "layer") {
      normalise(normal, 0, normal.length, this.scales.c, true);
    } else {
      const { factors, shifts: fromMeans } = this.affineOfC;
      for (let n = 0; n < normal.length; n++) normal[n] = normal[n] * factors[n] + fromMeans[n];
    }
    return addTo(normal, shifts);
  }
}
