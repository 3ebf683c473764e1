/** How likely the cuts of a prompt are: the ways in which its last word may go on (encoded.js). */

import { logSoftmax } from "./sampling.js";

/**
 * A cut, with the state before its last kept id, the log-probability `logKept` of the kept ids after those that are
 * common to all cuts, and those of the next ids, `logNext` [V].
 * @typedef {{ cut: import("./encoded.js").Cut, before: import("./model.js").State, logKept: number,
 *   logNext: Float64Array }} WeighedCut
 */

/** Returns the number of ids that are common to all cuts, but for the last: the model's state after them is needed. */
export function commonToCuts(cuts) {
  return Math.min(...cuts.map((cut) => cut.kept)) - 1;
}

/**
 * @param {import("./model.js").Model} model
 * @param {import("./model.js").State} state - That after the first commonToCuts(cuts) ids; it is changed.
 * @param {number[]} ids - Of the prompt.
 * @param {import("./encoded.js").Cut[]} cuts - At least one.
 * @returns {WeighedCut[]}
 */
export function weighCuts(model, state, ids, cuts) {
  const first = commonToCuts(cuts);
  const last = Math.max(...cuts.map((cut) => cut.kept)) - 1;
  const weighed = [];
  let logKept = 0;
  for (let n = first; n <= last; n++) {
    const before = model.copyState(state);
    const logNext = logSoftmax(model.step(state, ids[n]));
    const those = cuts.filter((cut) => cut.kept === n + 1);
    weighed.push(...those.map((cut) => ({ cut, before, logKept, logNext })));
    if (n < last) logKept += logNext[ids[n + 1]];
  }
  return weighed;
}

/** Returns the log of the probability of the ids that are allowed [V]. */
export function logOfAllowed(logs, allowed) {
  let sum = 0;
  for (let id = 0; id < logs.length; id++) if (allowed[id]) sum += Math.exp(logs[id]);
  return Math.log(sum);
}
