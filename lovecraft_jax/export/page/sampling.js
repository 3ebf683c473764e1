/** How a token is drawn from the logits of a model, as lovecraft_jax/inference/sampling.py. */

import { UNKNOWN_ID } from "./encoded.js";

/**
 * Logits are divided by `temperature` (0 is greedy: the most likely token). Of the tokens only the `topK` most likely
 * are kept (0 keeps all), and of these the fewest whose probabilities add up to `topP` (1 keeps all).
 * @typedef {{ temperature: number, topK: number, topP: number }} Sampling
 */

/**
 * Random numbers by xoshiro128** (Blackman and Vigna, Scrambled linear pseudorandom number generators, ACM TOMS 2021).
 * As its authors advise, a SplitMix generator makes the first state of a seed: a Weyl sequence with the finaliser of
 * MurmurHash3.
 */
export class Random {
  /** @param {number} seed - A whole number from 0 to 2^32 - 1. */
  constructor(seed) {
    this.state = new Uint32Array(4);
    let weyl = seed | 0;
    for (let n = 0; n < 4; n++) {
      weyl = (weyl + 0x9e3779b9) | 0;
      let mixed = Math.imul(weyl ^ (weyl >>> 16), 0x85ebca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
      this.state[n] = mixed ^ (mixed >>> 16);
    }
  }

  /** Returns a number in [0, 1), a multiple of 2^-32. */
  next() {
    const s = this.state;
    const result = Math.imul(rotateLeft(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotateLeft(s[3], 11);
    return result / 2 ** 32;
  }
}

/**
 * Returns a sampled id, never the unknown one: the cumulative distribution, inverted at a random number.
 * @param {ArrayLike<number>} logits - [V]
 * @param {Sampling} sampling
 * @param {{ next: () => number }} random
 * @param {ArrayLike<number> | null} allowed - [V], not 0 for the ids that may be sampled; null: all.
 */
export function sampleToken(logits, { temperature, topK, topP }, random, allowed = null) {
  const likeliest = argmax(logits, allowed);
  if (temperature === 0) return likeliest;
  const weights = new Float64Array(logits.length); // the largest is 1: the sum neither overflows nor is 0
  for (let id = 0; id < weights.length; id++) {
    if (id === UNKNOWN_ID || (allowed && !allowed[id])) continue;
    weights[id] = Math.exp((logits[id] - logits[likeliest]) / temperature);
  }
  if (topK > 0 && topK < weights.length) keepLargest(weights, topK, () => 1);
  if (topP < 1) keepLargest(weights, topP * sum(weights), (weight) => weight);
  return draw(weights, random.next());
}

/**
 * Returns the largest values' indices in descending order, of equals the first ones first.
 * @param {Float64Array} values - Of at least 0.
 * @param {number} count - At most as many; fewer where fewer values are above 0.
 */
export function largestIndices(values, count) {
  const kept = values.slice();
  keepLargest(kept, count, () => 1);
  const indices = [];
  for (let n = 0; n < kept.length; n++) if (kept[n] > 0) indices.push(n);
  return indices.sort((one, other) => kept[other] - kept[one] || one - other);
}

/** Returns log(sum(exp(logits))). */
export function logSumExp(logits) {
  let largest = -Infinity;
  for (let id = 0; id < logits.length; id++) if (logits[id] > largest) largest = logits[id];
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - largest);
  return largest + Math.log(sum);
}

/** Returns the log-probabilities of logits in a new array [V]. */
export function logSoftmax(logits) {
  const total = logSumExp(logits);
  return Float64Array.from(logits, (logit) => logit - total);
}

function argmax(logits, allowed) {
  let best = -1;
  for (let id = 0; id < logits.length; id++) {
    if (id === UNKNOWN_ID || (allowed && !allowed[id])) continue;
    if (best < 0 || logits[id] > logits[best]) best = id;
  }
  return best;
}

/**
 * Sets all weights to 0 but the largest ones: those before which, in descending order, the sizes add up to less than
 * `limit`. Of equal weights the first ones are kept.
 * @param {Float64Array} weights
 * @param {number} limit - Above 0.
 * @param {(weight: number) => number} sizeOf
 */
function keepLargest(weights, limit, sizeOf) {
  const threshold = smallestKept(weights.slice(), limit, sizeOf);
  let before = 0;
  for (const weight of weights) if (weight > threshold) before += sizeOf(weight);
  for (let id = 0; id < weights.length; id++) {
    if (weights[id] > threshold) continue;
    if (weights[id] === threshold && before < limit) before += sizeOf(threshold);
    else weights[id] = 0;
  }
}

/**
 * Returns the smallest weight that keepLargest keeps, or the largest that it does not keep, by Hoare's quickselect,
 * which reorders the weights.
 */
function smallestKept(weights, limit, sizeOf) {
  let low = 0;
  let high = weights.length - 1;
  let before = 0; // the size of those that are kept for certain, all before `low`
  while (low < high) {
    const pivot = weights[(low + high) >> 1];
    let left = low;
    let right = high;
    while (left <= right) {
      while (weights[left] > pivot) left++;
      while (weights[right] < pivot) right--;
      if (left > right) break;
      [weights[left], weights[right]] = [weights[right], weights[left]];
      left++;
      right--;
    }
    let upTo = before;
    for (let n = low; n <= right; n++) upTo += sizeOf(weights[n]);
    if (upTo >= limit) {
      high = right;
      continue;
    }
    for (let n = right + 1; n < left; n++) upTo += sizeOf(weights[n]); // the pivot itself
    before = upTo;
    low = left;
  }
  return weights[Math.min(low, weights.length - 1)];
}

/** Returns the first index at which the cumulative weights reach their sum times `uniform`, in [0, 1). */
function draw(weights, uniform) {
  const wanted = uniform * sum(weights);
  let reached = 0;
  let last = -1;
  for (let id = 0; id < weights.length; id++) {
    if (!weights[id]) continue;
    reached += weights[id];
    last = id;
    if (reached >= wanted) break;
  }
  return last;
}

function sum(values) {
  let total = 0;
  for (let n = 0; n < values.length; n++) total += values[n];
  return total;
}

function rotateLeft(bits, places) {
  return (bits << places) | (bits >>> (32 - places));
}
