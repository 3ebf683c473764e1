/** The Mogrifier (Melis, Kocisky and Blunsom 2020), as lovecraft_jax/model/mogrifier.py. */

import { sigmoid } from "./activations.js";
import { Kernel } from "./kernel.js";
import { writeVector } from "./layer_input.js";

/** The input x of a layer and its h, which modulate each other before a time step. */
export class Mogrifier {
  /**
   * @param {number} rounds
   * @param {(name: string) => Float32Array} weights - The layer's tensors by name.
   * @param {Float32Array} kernelX - [D, G]
   * @param {number} columns - G
   * @param {number} units - H
   * @param {number} below - The width of the layer below's output, with which x begins.
   * @param {import("./layer_input.js").Tokens | null} tokens
   */
  constructor(rounds, weights, kernelX, columns, units, below, tokens) {
    const width = kernelX.length / columns;
    this.below = below;
    this.tokens = tokens;
    this.x = new Float64Array(width);
    this.h = new Float64Array(units);
    this.kernelX = Kernel.ofRows(kernelX, columns, 0, width);
    this.rounds = Array.from({ length: rounds }, (_, n) => {
      const [from, to] = n % 2 ? [width, units] : [units, width];
      return Kernel.ofRows(weights(`mogrify_${n + 1}`), to, 0, from);
    });
  }

  /** Sets x and h to what is left of them after all rounds. */
  modulate(h, below, id) {
    if (this.below) this.x.set(below);
    if (this.tokens) writeVector(this.tokens, id, this.x, this.below);
    this.h.set(h);
    this.rounds.forEach((kernel, n) => {
      const [from, to] = n % 2 ? [this.x, this.h] : [this.h, this.x]; // x is the first to be modulated
      const modulation = kernel.multiply(from);
      for (let k = 0; k < to.length; k++) to[k] *= 2 * sigmoid(modulation[k]);
    });
  }

  /** Returns x's part of the gates [G], in an array that the next call uses again. */
  gates() {
    return this.kernelX.multiply(this.x);
  }
}
