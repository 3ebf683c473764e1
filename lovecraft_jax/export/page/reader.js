/** What surprises the model in a text, and how it would go on. */

import { commonToCuts, logOfAllowed, weighCuts } from "./cuts.js";
import { LEFT_OUT, UNKNOWN_ID } from "./encoded.js";
import { largestIndices, logSoftmax, logSumExp } from "./sampling.js";

const CONTINUATIONS = 8;
const CONSIDERED = 32; // tokens of each cut of the text's end, whose texts may be equal
const RECENT = 32; // the states after so many of the last tokens are kept
const MOST_STATES = 256; // and at most so many of those before them, at equal distances

/**
 * Reads texts, each as a change of the one before: it keeps states along the text, so that only what follows the first
 * difference is computed again.
 *
 * A text is read from the initial state, with the start token as the first input, as inference/scoring.py does:
 * `inputs` are the start token and the ids of the text.
 */
export class Reader {
  /**
   * @param {import("./model.js").Model} model
   * @param {object} tokenizer
   */
  constructor(model, tokenizer) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.inputs = [tokenizer.startId];
    this.nats = []; // the surprisal of each id, without its spelling
    this.states = new Map(); // by the number of inputs that they are the states after
    this.distance = RECENT; // between the states that are kept
  }

  /**
   * Returns the tokens of a text, each with its surprisal in bits, that of its spelling included, and how the text
   * would go on: what the likeliest tokens after it would add, in descending order of their probability.
   * @param {string} rawText - As it was typed.
   * @returns {{ tokens: { text: string, bits: number }[], continuations: { text: string, probability: number }[] }}
   */
  read(rawText) {
    const cleaned = this.tokenizer.cleaning.apply(rawText);
    const encoded = this.tokenizer.encode(cleaned);
    this.readIds(encoded.filter(({ id }) => id !== LEFT_OUT).map(({ id }) => id));
    let n = 0;
    const tokens = encoded.map(({ id, text, nats }) => {
      const ofId = id === LEFT_OUT ? 0 : this.nats[n++];
      return { text, bits: (ofId + nats) / Math.LN2 };
    });
    return { tokens, continuations: this.continuations(cleaned) };
  }

  /** Computes the surprisal of the ids of a text from the first on that differs from those before. */
  readIds(ids) {
    const same = sharedLength(ids, this.inputs.slice(1));
    this.inputs = [this.inputs[0], ...ids];
    this.nats.length = same;
    while (ids.length > this.distance * MOST_STATES) this.distance *= 2;
    const state = this.stateAfter(same);
    const isKept = (n) => n % this.distance === 0 || n > ids.length - RECENT;
    for (const n of this.states.keys()) if (n > same || !isKept(n)) this.states.delete(n);
    for (let n = same; n <= ids.length; n++) {
      if (isKept(n)) this.states.set(n, this.model.copyState(state));
      if (n === ids.length) break;
      const logits = this.model.step(state, this.inputs[n]);
      this.nats.push(logSumExp(logits) - logits[ids[n]]);
    }
  }

  /** Returns a copy of the state after the first `count` inputs. */
  stateAfter(count) {
    let from = count;
    while (from > 0 && !this.states.has(from)) from--;
    const state = from ? this.model.copyState(this.states.get(from)) : this.model.initialState();
    for (const id of this.inputs.slice(from, count)) this.model.advance(state, id);
    return state;
  }

  /** Returns the likeliest continuations of the text that has been read. */
  continuations(cleaned) {
    const { ids, cuts } = this.tokenizer.encodePrompt(cleaned);
    const weights = new Map(); // by text
    const add = (text, weight) => text && weights.set(text, (weights.get(text) ?? 0) + weight);
    const total = cuts.length ? this.addOfCuts(ids, cuts, add) : this.addOfNext(add);
    const inOrder = [...weights].sort(([, one], [, other]) => other - one).slice(0, CONTINUATIONS);
    return inOrder.map(([text, weight]) => ({ text, probability: weight / total }));
  }

  /** Adds the likeliest tokens after the text, and returns the weight of all. */
  addOfNext(add) {
    const last = this.inputs.length - 1;
    const probs = this.nextProbs(this.stateAfter(last), this.inputs[last]);
    probs[UNKNOWN_ID] = 0;
    for (const id of largestIndices(probs, CONSIDERED)) add(this.tokenizer.tokenText(id), probs[id]);
    return probs.reduce((sum, prob) => sum + prob, 0);
  }

  /** Adds the likeliest ways in which the text's last word may go on, and returns the weight of all. */
  addOfCuts(ids, cuts, add) {
    // The end of a text that goes on may have other tokens than that of a text that has been read, which is complete.
    const common = commonToCuts(cuts);
    const same = Math.min(common, sharedLength(ids, this.inputs));
    const state = this.stateAfter(same);
    for (const id of ids.slice(same, common)) this.model.advance(state, id);
    const weighed = weighCuts(this.model, state, ids, cuts);
    const logs = weighed.map(({ cut, logKept, logNext }) => logKept + logOfAllowed(logNext, cut.allowed) - cut.nats);
    const largest = Math.max(...logs);
    const weights = logs.map((log) => Math.exp(log - largest));
    weighed.forEach((one, n) => this.addOfCut(one, weights[n], ids, add));
    return weights.reduce((sum, weight) => sum + weight, 0);
  }

  /** Adds what the likeliest tokens after a cut add to the text; all of them together have the `weight`. */
  addOfCut({ cut: { allowed, begun, kept }, before, logNext }, weight, ids, add) {
    const { model, tokenizer } = this;
    const probs = logNext.map((log, id) => (allowed[id] ? Math.exp(log) : 0));
    const share = weight / probs.reduce((sum, prob) => sum + prob, 0);
    for (const id of largestIndices(probs, CONSIDERED)) {
      if (!begun.length) {
        add(tokenizer.tokenText(id), share * probs[id]);
        continue;
      }
      const rest = tokenizer.generatedBytes(id, null, 0).subarray(begun.length);
      if (rest.length) {
        add(completeText(rest), share * probs[id]);
        continue;
      }
      // The token ends where the text does: the one after it adds to the text.
      const state = model.copyState(before);
      model.advance(state, ids[kept - 1]);
      const after = this.nextProbs(state, id);
      for (const next of largestIndices(after, CONSIDERED)) {
        add(tokenizer.tokenText(next), share * probs[id] * after[next]);
      }
    }
  }

  /** Returns the probabilities of the id after another one [V]; the state is changed. */
  nextProbs(state, id) {
    return logSoftmax(this.model.step(state, id)).map(Math.exp);
  }
}

/** Returns bytes as text, "" where they end within a character. */
function completeText(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return "";
  }
}

function sharedLength(one, other) {
  let n = 0;
  while (n < Math.min(one.length, other.length) && one[n] === other[n]) n++;
  return n;
}
