/** The heads of a model: from its hidden state to the logits of the next token. */

import { Kernel, addTo } from "./kernel.js";
import { logSumExp } from "./sampling.js";

/** A logit for each id. */
export class FullSoftmax {
  /**
   * @param {Kernel} kernel - [H, V]
   * @param {Float32Array} bias - [V]
   */
  constructor(kernel, bias) {
    this.kernel = kernel;
    this.bias = bias;
  }

  /**
   * Writes the logits.
   * @param {Float64Array} hidden - [H]
   * @param {Float32Array} logits - [V]
   */
  write(hidden, logits) {
    logits.set(addTo(this.kernel.multiply(hidden), this.bias));
  }
}

/**
 * The adaptive softmax (Grave et al. 2017) of lovecraft_jax/model/adaptive_softmax.py: the head has logits for the
 * first ids and for each tail, a tail for its ids. It is tied where the kernels of all ids are rows of the embedding.
 */
export class AdaptiveSoftmax {
  /**
   * @param {number} vocabSize - V
   * @param {number} head - The number of ids that are in none of the tails.
   * @param {number} width - H, of the hidden state.
   * @param {(name: string) => Float32Array} weights - The head's tensors by name.
   * @param {Float32Array | null} embedding - [V, H] where it is tied.
   */
  constructor(vocabSize, head, width, weights, embedding) {
    const edges = tailEdges(vocabSize, head);
    const tails = edges.length - 1;
    this.head = head;
    this.bias = weights("head_bias");
    this.kernels = embedding
      ? [
          Kernel.ofTransposedRows(embedding, width, 0, head),
          Kernel.ofRows(weights("tails_kernel"), tails, 0, width),
        ]
      : [Kernel.ofRows(weights("head_kernel"), head + tails, 0, width)];
    this.headLogits = new Float64Array(head + tails);
    this.tails = Array.from({ length: tails }, (_, n) => {
      const [begin, end] = [edges[n], edges[n + 1]];
      const bias = weights(`tail_${n}_bias`);
      if (embedding) return { begin, bias, down: null, up: Kernel.ofTransposedRows(embedding, width, begin, end) };
      const [down, up] = [weights(`tail_${n}_projection`), weights(`tail_${n}_kernel`)];
      const narrow = down.length / width;
      const kernels = { down: Kernel.ofRows(down, narrow, 0, width), up: Kernel.ofRows(up, end - begin, 0, narrow) };
      return { begin, bias, ...kernels };
    });
  }

  /**
   * Writes the log-probability of each id.
   * @param {Float64Array} hidden - [H]
   * @param {Float32Array} logs - [V]
   */
  write(hidden, logs) {
    const { headLogits, head } = this;
    let at = 0;
    for (const kernel of this.kernels) {
      const result = kernel.multiply(hidden);
      headLogits.set(result, at);
      at += result.length;
    }
    addTo(headLogits, this.bias);
    const total = logSumExp(headLogits);
    for (let id = 0; id < head; id++) logs[id] = headLogits[id] - total;
    this.tails.forEach(({ begin, bias, down, up }, n) => {
      const logits = addTo(up.multiply(down ? down.multiply(hidden) : hidden), bias);
      const shift = headLogits[head + n] - total - logSumExp(logits);
      for (let id = 0; id < logits.length; id++) logs[begin + id] = logits[id] + shift;
    });
  }
}

/** Returns where each tail begins, and the end of the last: [head, 5 * head, 25 * head, ..., vocabSize]. */
function tailEdges(vocabSize, head) {
  const edges = [head];
  while (edges.at(-1) < vocabSize) edges.push(Math.min(vocabSize, 5 * edges.at(-1)));
  return edges;
}
