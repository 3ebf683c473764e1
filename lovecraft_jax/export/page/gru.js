/** The GRU layer with the reset gate after the matmul, as lovecraft_jax/model/gru.py. */

import { sigmoid } from "./activations.js";
import { Kernel } from "./kernel.js";
import { LayerInput } from "./layer_input.js";

/** Its state is { h: [H] }. */
export class GruLayer {
  /**
   * @param {object} settings - Those of the model.
   * @param {(name: string) => Float32Array} weights - The layer's tensors by name.
   * @param {number} below - The width of the layer below's output.
   * @param {import("./layer_input.js").Tokens | null} tokens
   */
  constructor(settings, weights, below, tokens) {
    this.units = settings.units;
    this.bias = weights("bias");
    this.biasH = weights("bias_h");
    this.input = new LayerInput(weights("kernel_x"), 3 * this.units, below, tokens);
    this.kernelH = Kernel.ofRows(weights("kernel_h"), 3 * this.units, 0, this.units);
  }

  initialState() {
    return { h: new Float64Array(this.units) };
  }

  /**
   * Computes one time step, in place.
   * @param {{ h: Float64Array }} state
   * @param {Float64Array | null} below - The layer below's output.
   * @param {number} id - The token.
   */
  step({ h }, below, id) {
    const { units: H, bias, biasH } = this;
    const gatesX = this.input.gates(below, id);
    const gatesH = this.kernelH.multiply(h);
    for (let r = 0; r < H; r++) {
      const z = H + r; // the gates are r, z, n
      const n = z + H;
      const reset = sigmoid(gatesX[r] + gatesH[r] + bias[r]);
      const update = sigmoid(gatesX[z] + gatesH[z] + bias[z]);
      const next = Math.tanh(gatesX[n] + bias[n] + reset * (gatesH[n] + biasH[r]));
      h[r] = (1 - update) * next + update * h[r];
    }
  }
}
