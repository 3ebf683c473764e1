/** What enters a layer: the layer below's output, the token, or both, as lovecraft_jax/model/layer_input.py has it. */

import { Kernel, addTo } from "./kernel.js";

const MOST_KEPT = 1 << 20; // numbers of the table with each token's part of the gates

/**
 * The tokens as vectors: rows of an embedding [V, width], or one-hot vectors where it is null (then width is V).
 * @typedef {{ vocabSize: number, width: number, embedding: Float32Array | null }} Tokens
 */

/** A layer's input and its kernel_x [D, G], whose rows for the layer below's output stand before those of the token. */
export class LayerInput {
  /**
   * @param {Float32Array} kernel - kernel_x
   * @param {number} columns - G
   * @param {number} below - The width of the layer below's output; 0 where none is below.
   * @param {Tokens | null} tokens - null where the layer does not take the token.
   */
  constructor(kernel, columns, below, tokens) {
    this.columns = columns;
    this.below = below ? Kernel.ofRows(kernel, columns, 0, below) : null;
    this.tokens = tokens;
    if (!tokens) return;
    this.gatesOfBoth = new Float64Array(columns);
    if (!tokens.embedding) {
      this.table = kernel.subarray(below * columns);
      return;
    }
    this.vector = new Float64Array(tokens.width);
    this.kernel = Kernel.ofRows(kernel, columns, below, below + tokens.width);
    if (tokens.vocabSize * columns <= MOST_KEPT) {
      this.table = new Float32Array(tokens.vocabSize * columns);
      this.isKept = new Uint8Array(tokens.vocabSize);
    }
  }

  /**
   * Returns the input's part of the gates [G], in an array that the next call uses again.
   * @param {Float64Array | null} below - The layer below's output.
   * @param {number} id - The token.
   */
  gates(below, id) {
    if (!this.tokens) return this.below.multiply(below);
    const gates = this.gatesOfBoth;
    this.gatesOfToken(id, gates);
    return this.below ? addTo(gates, this.below.multiply(below)) : gates;
  }

  gatesOfToken(id, gates) {
    const start = id * this.columns;
    if (this.isKept && !this.isKept[id]) {
      this.table.set(this.multiplyEmbedding(id), start);
      this.isKept[id] = 1;
    }
    if (!this.table) gates.set(this.multiplyEmbedding(id));
    else for (let n = 0; n < gates.length; n++) gates[n] = this.table[start + n];
  }

  multiplyEmbedding(id) {
    writeVector(this.tokens, id, this.vector, 0);
    return this.kernel.multiply(this.vector);
  }
}

/** Writes the vector of a token into an array, from the index `at` on. */
export function writeVector({ embedding, width }, id, array, at) {
  for (let n = 0; n < width; n++) array[at + n] = embedding[id * width + n];
}
