/** How a token is drawn from the logits of a model, as lovecraft_jax/inference/sampling.py. */

import { UNKNOWN_ID } from "./encoded.js";

/**
 * Logits are divided by `temperature` (0 is greedy: the most likely token). Of the tokens only the `topK` most likely are
 * kept (0 keeps all), and of these the fewest whose probabilities add up to `topP` (1 keeps all).
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
  if (topK > 0 && topK < weights.length) keepLargest(weights, topK);
  if (topP < 1) keepNucleus(weights, topP);
  return draw(weights, random.next());
}

/**
 * Returns the largest values' indices in descending order, of equals the first ones first.
 * @param {Float64Array} values - Of at least 0.
 * @param {number} count - At most as many; fewer where fewer values are above 0.
 */
export function largestIndices(values, count) {
  const kept = values.slice();
  if (count < kept.length) keepLargest(kept, count);
  return inDescendingOrder(kept, 0);
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

/** Sets all but the `count` largest weights to 0; of equals the first ones are kept. */
function keepLargest(weights, count) {
  const threshold = nthLargest(weights.slice(), count);
  let ofEquals = count;
  for (const weight of weights) if (weight > threshold) ofEquals--;
  for (let id = 0; id < weights.length; id++) {
    if (weights[id] > threshold || (weights[id] === threshold && ofEquals-- > 0)) continue;
    weights[id] = 0;
  }
}

/** Sets all weights to 0 but the fewest whose share of the sum is `share`: those before which less has been kept. */
function keepNucleus(weights, share) {
  const total = sum(weights);
  // Those below the threshold have less than 1 - share together: only the others need sorting.
  const threshold = ((1 - share) * total) / weights.length;
  let before = 0;
  for (const [place, id] of inDescendingOrder(weights, threshold).entries()) {
    const weight = weights[id];
    if (place > 0 && before >= share * total) weights[id] = 0;
    before += weight;
  }
  for (let id = 0; id < weights.length; id++) if (weights[id] < threshold) weights[id] = 0;
}

/** Returns the indices of the weights that are above 0 and at least `threshold`, the largest first. */
function inDescendingOrder(weights, threshold) {
  const ids = [];
  for (let id = 0; id < weights.length; id++) if (weights[id] > 0 && weights[id] >= threshold) ids.push(id);
  return ids.sort((one, other) => weights[other] - weights[one] || one - other);
}

/** Returns the count-th largest value by Hoare's quickselect, which reorders the values. */
function nthLargest(values, count) {
  let [low, high, wanted] = [0, values.length - 1, count - 1];
  while (low < high) {
    const pivot = values[(low + high) >> 1];
    let [left, right] = [low, high];
    while (left <= right) {
      while (values[left] > pivot) left++;
      while (values[right] < pivot) right--;
      if (left <= right) {
        [values[left], values[right]] = [values[right], values[left]];
        left++;
        right--;
      }
    }
    if (wanted <= right) high = right;
    else if (wanted >= left) low = left;
    else break;
  }
  return values[wanted];
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
