/** What surprises the model in a text, and how it would go on. */

import { commonToCuts, logOfAllowed, weighCuts } from "./cuts.js";
import { LEFT_OUT, UNKNOWN_ID } from "./encoded.js";
import { largestIndices, logSoftmax, logSumExp, sampleToken } from "./sampling.js";

const CONTINUATIONS = 8;
const CONSIDERED = 32; // tokens of each cut of the text's end, whose texts may be equal
const RECENT = 32; // the states after so many of the last tokens are kept
const MOST_STATES = 256; // and at most so many of those before them, at equal distances
const LONGEST_WORD = 20; // characters of a word to which a continuation is completed
const IN_WORD = /[\p{L}\p{N}'’]/u;

/**
 * Reads texts, each as a change of the one before: it keeps states along the text, so that only what follows the first
 * difference is computed again. It may pause within a text: `begin` and `advance` read, and then the text has `tokens`
 * and `continuations`.
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
    this.text = null; // as it was typed
    this.encoded = []; // the tokens of the text
    this.inputs = [tokenizer.startId];
    this.nats = []; // the surprisal of each id, without its spelling, as far as it has been read
    this.states = new Map(); // by the number of inputs that they are the states after
    this.distance = RECENT; // between the states that are kept
    this.state = model.initialState();
    this.read = 0; // inputs that the state includes
  }

  /**
   * Takes a text, whose first tokens are known where the text before had them too.
   * @param {string} rawText - As it was typed.
   */
  begin(rawText) {
    this.text = rawText;
    this.encoded = this.tokenizer.encode(this.tokenizer.cleaning.apply(rawText));
    const inputs = this.inputsOf(this.encoded);
    const same = Math.min(this.nats.length, commonLength(inputs, this.inputs) - 1);
    this.inputs = inputs;
    this.nats.length = same;
    while (inputs.length - 1 > this.distance * MOST_STATES) this.distance *= 2;
    for (const n of this.states.keys()) if (n > same || !this.isKept(n)) this.states.delete(n);
    const from = this.keptBefore(same);
    if (this.read >= from && this.read <= same) return;
    this.state = this.stateAfter(from);
    this.read = from;
  }

  /** Reads on, at least one token and then while `mayGoOn()`. Returns whether the whole text has been read. */
  advance(mayGoOn = () => true) {
    const { model, inputs } = this;
    const end = inputs.length - 1;
    while (this.read < end) {
      const logits = model.step(this.state, inputs[this.read]);
      this.read += 1;
      if (this.nats.length < this.read) this.nats.push(logSumExp(logits) - logits[inputs[this.read]]);
      if (this.isKept(this.read)) this.states.set(this.read, model.copyState(this.state));
      if (!mayGoOn()) break;
    }
    return this.read === end;
  }

  /** The tokens that have been read, each with its surprisal in bits, that of its spelling included.
   * @returns {{ text: string, bits: number }[]} */
  get tokens() {
    const tokens = [];
    let n = 0;
    for (const { id, text, nats } of this.encoded) {
      if (id !== LEFT_OUT && n === this.nats.length) break;
      const ofId = id === LEFT_OUT ? 0 : this.nats[n++];
      tokens.push({ text, bits: (ofId + nats) / Math.LN2 });
    }
    return tokens;
  }

  /** The share of the text that has been read. */
  get share() {
    return this.nats.length / Math.max(1, this.inputs.length - 1);
  }

  /**
   * Returns how a text would go on: what the likeliest tokens after it would add, in descending order of their
   * probability. The text of a class of rare words is a description.
   * @param {string} rawText - As it was typed: the beginning of the text that has been read.
   * @returns {{ text: string, isClass: boolean, probability: number }[]}
   */
  continuations(rawText) {
    const cleaned = this.tokenizer.cleaning.apply(rawText);
    const { ids, cuts } = this.tokenizer.encodePrompt(cleaned);
    const weights = new Map(); // by what is shown: { text, isClass, weight }
    const add = (text, weight, isClass = false) => {
      if (!text) return;
      const key = `${isClass} ${text}`;
      if (!weights.has(key)) weights.set(key, { text, isClass, weight: 0 });
      weights.get(key).weight += weight;
    };
    const total = cuts.length ? this.addOfCuts(ids, cuts, add) : this.addOfNext(this.tokenizer.encode(cleaned), add);
    const inOrder = [...weights.values()].sort((one, other) => other.weight - one.weight).slice(0, CONTINUATIONS);
    return inOrder.map(({ text, isClass, weight }) => ({ text, isClass, probability: weight / total }));
  }

  /**
   * Yields the continuations of a text. Where these are single characters, it adds to each the likeliest characters
   * after it, up to the end of a word, and yields them after every one; then it returns them in descending order.
   * @param {string} rawText - As for `continuations`.
   */
  *completions(rawText) {
    const { model, tokenizer } = this;
    const completed = this.continuations(rawText);
    yield completed;
    if (tokenizer.level !== "chars") return completed;
    const inputs = this.inputsOf(tokenizer.encode(tokenizer.cleaning.apply(rawText)));
    const before = this.stateAfter(inputs.length, inputs);
    for (const one of completed) {
      let [{ id }] = tokenizer.encode(one.text);
      if (one.text !== " " && !IN_WORD.test(one.text)) continue;
      const state = model.copyState(before);
      while (one.text.length < LONGEST_WORD) {
        const logits = model.step(state, id);
        id = sampleToken(logits, { temperature: 0 }, null);
        const next = tokenizer.tokenText(id);
        if (!IN_WORD.test(next)) break;
        one.text += next;
        one.probability *= Math.exp(logits[id] - logSumExp(logits));
        yield completed;
      }
    }
    return completed.sort((one, other) => other.probability - one.probability);
  }

  /** Returns the start token and the ids of tokens. */
  inputsOf(tokens) {
    const ids = tokens.map(({ id }) => id).filter((id) => id !== LEFT_OUT);
    return [this.tokenizer.startId, ...ids];
  }

  /** Whether the state after the first `n` inputs is kept. */
  isKept(n) {
    return n % this.distance === 0 || n >= this.inputs.length - RECENT;
  }

  /** Returns the largest number of inputs, at most `count`, the state after which is kept. */
  keptBefore(count) {
    let from = count;
    while (from > 0 && !this.states.has(from)) from--;
    return from;
  }

  /** Returns a copy of the state after the first `count` of inputs, which may be others than those of the text. */
  stateAfter(count, inputs = this.inputs) {
    const from = this.keptBefore(Math.min(count, commonLength(inputs, this.inputs)));
    const state = from ? this.model.copyState(this.states.get(from)) : this.model.initialState();
    for (const id of inputs.slice(from, count)) this.model.advance(state, id);
    return state;
  }

  /** Adds the likeliest tokens after those of a text, and returns the weight of all. */
  addOfNext(tokens, add) {
    const inputs = this.inputsOf(tokens);
    const last = inputs.length - 1;
    const probs = this.nextProbs(this.stateAfter(last, inputs), inputs[last]);
    probs[UNKNOWN_ID] = 0;
    this.addLikeliest(probs, 1, add);
    return probs.reduce((sum, prob) => sum + prob, 0);
  }

  /** Adds the likeliest ways in which the text's last word may go on, and returns the weight of all. */
  addOfCuts(ids, cuts, add) {
    // The end of a text that goes on may have other tokens than that of a text that has been read, which is complete.
    const weighed = weighCuts(this.model, this.stateAfter(commonToCuts(cuts), ids), ids, cuts);
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
    if (!begun.length) {
      this.addLikeliest(probs, share, add);
      return;
    }
    for (const id of largestIndices(probs, CONSIDERED)) {
      const rest = tokenizer.generatedBytes(id, null, 0).subarray(begun.length);
      if (rest.length) {
        add(completeText(rest), share * probs[id]);
        continue;
      }
      // The token ends where the text does: the one after it adds to the text.
      const state = model.copyState(before);
      model.advance(state, ids[kept - 1]);
      this.addLikeliest(this.nextProbs(state, id), share * probs[id], add);
    }
  }

  /** Adds the likeliest tokens by their probabilities [V], each times the `weight`. */
  addLikeliest(probs, weight, add) {
    for (const id of largestIndices(probs, CONSIDERED)) {
      const description = this.tokenizer.describeClass(id);
      add(description || this.tokenizer.tokenText(id), weight * probs[id], Boolean(description));
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

/** Returns the number of first elements that are the same in both. */
function commonLength(one, other) {
  let n = 0;
  while (n < Math.min(one.length, other.length) && one[n] === other[n]) n++;
  return n;
}
