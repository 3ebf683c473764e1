/** Generation: reads a prompt, then samples tokens, as lovecraft_jax/inference/generate.py. */

import { commonToCuts, logOfAllowed, weighCuts } from "./cuts.js";
import { Random, sampleToken } from "./sampling.js";

/** A text that is generated. What it has read stays with it, so that a pause is merely not to call it. */
export class Generator {
  /**
   * @param {import("./model.js").Model} model
   * @param {object} tokenizer
   * @param {string} prompt - A text as it was typed, of characters that the tokenizer knows. An empty one is a newline.
   * @param {import("./sampling.js").Sampling & { seed: number }} sampling - Its values may be changed between tokens,
   *   but for the seed.
   */
  constructor(model, tokenizer, prompt, sampling) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.sampling = sampling;
    this.random = new Random(sampling.seed);
    // A mark of the byte order is a character like any other.
    this.utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    const { ids, cuts } = tokenizer.encodePrompt(tokenizer.cleaning.apply(prompt));
    this.prompt = { ids, cuts, common: cuts.length ? commonToCuts(cuts) : ids.length - 1 };
    this.state = model.initialState();
    this.read = 0; // ids of the prompt that the state includes
    this.id = -1; // the last token, which the state does not include yet; -1: the prompt has not been read
    this.allowed = null; // the ids that may come next; null: all
    this.begun = 0; // bytes of the next token that the prompt has already
  }

  /** Whether the prompt has been read: then `next` may be called. */
  get isReady() {
    return this.id >= 0;
  }

  /** Reads the prompt, at least an id of it and then while `mayGoOn()`. */
  prefill(mayGoOn = () => true) {
    const { ids, cuts, common } = this.prompt;
    while (this.read < common) {
      this.model.advance(this.state, ids[this.read]);
      this.read += 1;
      if (!mayGoOn()) return;
    }
    this.id = ids[common];
    if (cuts.length) this.chooseCut(ids, cuts);
  }

  /** Returns what one more token adds to the text, "" while the bytes of a character are incomplete. */
  next() {
    const logits = this.model.step(this.state, this.id);
    this.id = sampleToken(logits, this.sampling, this.random, this.allowed);
    const bytes = this.tokenizer.generatedBytes(this.id, this.random, this.sampling.temperature);
    const added = bytes.subarray(this.begun);
    this.allowed = null;
    this.begun = 0;
    return this.utf8.decode(added, { stream: true });
  }

  /**
   * Goes on from the likeliest cut: that with the largest probability of the ids up to it, times that of a token after
   * it which begins as the rest of the prompt does.
   */
  chooseCut(ids, cuts) {
    let best = -Infinity;
    for (const { cut, before, logKept, logNext } of weighCuts(this.model, this.state, ids, cuts)) {
      const log = logKept + logOfAllowed(logNext, cut.allowed) - cut.nats;
      if (log <= best) continue;
      best = log;
      this.state = before;
      this.id = ids[cut.kept - 1];
      this.allowed = cut.allowed;
      this.begun = cut.begun.length;
    }
  }
}
