// Runs one function of the page's JavaScript for js_model_test.py: node js_model.mjs JOB, a JSON file whose "run" names
// it. The result is JSON on standard output; arrays go to the file "out".

import { readFileSync, writeFileSync } from "node:fs";
import { Generator } from "../../lovecraft_jax/export/page/generator.js";
import { Model } from "../../lovecraft_jax/export/page/model.js";
import { Reader } from "../../lovecraft_jax/export/page/reader.js";
import { readSafetensors } from "../../lovecraft_jax/export/page/safetensors.js";
import { Random, sampleToken } from "../../lovecraft_jax/export/page/sampling.js";
import { makeTokenizer } from "../../lovecraft_jax/export/page/tokenizer.js";
import { serve } from "../../lovecraft_jax/export/page/worker.js";

const jobs = {
  /** Writes the tensors of a file as float32, one after the other, in the order of their names. */
  tensors({ weights, out }) {
    const { tensors, metadata } = load(weights);
    const names = Object.keys(tensors).sort();
    writeFileSync(out, Buffer.concat(names.map((name) => Buffer.from(tensors[name].values.buffer))));
    return { metadata, shapes: names.map((name) => [name, tensors[name].shape]) };
  },

  /** Writes the logits after each of the ids, float32 [N, V]. */
  logits({ weights, ids, out }) {
    const { model } = loadModel(weights);
    const state = model.initialState();
    const logits = ids.map((id) => model.step(state, id).slice());
    writeFileSync(out, Buffer.concat(logits.map((row) => Buffer.from(row.buffer))));
  },

  /** Samples a token of each row of logits, with numbers that are given in place of random ones. */
  sample({ rows, samplings, uniform, allowed }) {
    return samplings.map((sampling) =>
      rows.map((logits, n) => sampleToken(logits, sampling, { next: () => uniform[n] }, allowed)),
    );
  },

  /** Returns the generator's state for a seed, and its numbers from the state 1, 2, 3, 4, as multiples of 2^-32. */
  random({ seed, count }) {
    const random = new Random(seed);
    const seeded = [...random.state];
    random.state.set([1, 2, 3, 4]);
    return [seeded, Array.from({ length: count }, () => random.next() * 2 ** 32)];
  },

  /** Returns texts of `length` tokens after the prompts; `changes`: to the sampling, by the token that they precede. */
  generate({ weights, prompts, length, sampling, changes = {} }) {
    const { model, tokenizer } = loadModel(weights);
    return prompts.map((prompt) => {
      const generator = prefilled(model, tokenizer, prompt, { ...sampling });
      const parts = Array.from({ length }, (_, n) => {
        Object.assign(generator.sampling, changes[n]);
        return generator.next();
      });
      return parts.join("");
    });
  },

  /** Returns the id that each prompt is continued after, and how many bytes of the next token it has already. */
  cut({ weights, prompts }) {
    const { model, tokenizer } = loadModel(weights);
    return prompts.map((prompt) => {
      const generator = prefilled(model, tokenizer, prompt, { seed: 0 });
      return [generator.id, generator.begun];
    });
  },

  /** Returns a text of `length` tokens, its parts, and the bytes of the tokens. */
  bytes({ weights, length, sampling }) {
    const { model, tokenizer } = loadModel(weights);
    const generator = prefilled(model, tokenizer, "", sampling);
    const bytes = [];
    const { generatedBytes } = tokenizer;
    tokenizer.generatedBytes = (...given) => {
      bytes.push(generatedBytes.apply(tokenizer, given));
      return bytes.at(-1);
    };
    const parts = Array.from({ length }, () => generator.next());
    return { parts, bytes: bytes.flatMap((some) => [...some]) };
  },

  /** Returns the continuations of a text, and what they are completed to. */
  complete({ weights, text }) {
    const { model, tokenizer } = loadModel(weights);
    const reader = new Reader(model, tokenizer);
    reader.begin(text);
    reader.advance();
    const completions = reader.completions(text);
    const first = structuredClone(completions.next().value);
    let step = {};
    while (!step.done) step = completions.next();
    return [first, step.value];
  },

  /**
   * Returns what one Reader, or a new one each, finds in texts, with a pause after every `slice` tokens, and how many
   * tokens the model has read for each.
   */
  read({ weights, texts, isFresh = false, slice = Infinity }) {
    const { model, tokenizer } = loadModel(weights);
    const { advance } = model;
    let advanced = 0;
    model.advance = (...given) => (advanced++, advance.apply(model, given));
    let reader = new Reader(model, tokenizer);
    return texts.map((text) => {
      if (isFresh) reader = new Reader(model, tokenizer);
      advanced = 0;
      reader.begin(text);
      const shares = [];
      for (let isDone = false; !isDone; ) {
        let left = slice;
        isDone = reader.advance(() => (left -= 1) > 0);
        shares.push(reader.share);
      }
      const continuations = reader.continuations(text);
      return { tokens: reader.tokens, continuations, shares, advanced, states: reader.states.size };
    });
  },

  /** Returns what the worker does while a prompt is read, then a text, by a clock that each look moves by 15 ms. */
  async slices({ weights, text }) {
    let now = 0;
    Object.defineProperty(globalThis, "performance", { value: { now: () => (now += 15) } });
    const counts = { advance: 0, continuations: 0 };
    count(Model.prototype, "advance", counts);
    count(Reader.prototype, "continuations", counts);
    const { port1, port2 } = new MessageChannel();
    globalThis.MessageChannel = ImmediateChannel;
    serve(port2);
    const received = [];
    let heard = () => {};
    port1.onmessage = ({ data }) => heard(received.push(data));
    const until = async (isIt) => {
      while (!received.some(isIt)) await new Promise((resolve) => (heard = resolve));
    };
    const sampling = { temperature: 0, topK: 0, topP: 1, seed: 0 };
    port1.postMessage({ kind: "load", weights: readFileSync(weights).toString("base64") });
    port1.postMessage({ kind: "write", id: 1, prompt: text, sampling, length: 20, pace: 0 });
    await until(({ kind }) => kind === "begun");
    port1.postMessage({ kind: "pause" });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const [advancedBeforePause, afterPause] = [counts.advance, received.filter(isText).length];
    port1.postMessage({ kind: "go on" });
    await until(({ isDone }) => isDone);
    port1.postMessage({ kind: "read", id: 1, text, cursor: text.length });
    await until(({ kind }) => kind === "read");
    port1.close();
    port2.close();
    const written = received.filter(isText).reduce((sum, message) => sum + message.text.length, 0);
    const shares = new Set(received.filter(({ kind }) => kind === "tokens").map(({ share }) => share)).size;
    return { advancedBeforePause, afterPause, written, shares, continuations: counts.continuations };
  },

  error({ weights }) {
    try {
      loadModel(weights);
    } catch (error) {
      return error.message;
    }
  },
};

/** Takes turns with other channels, as in a browser: Node empties a channel to which its own listener sends. */
class ImmediateChannel {
  constructor() {
    this.port1 = {};
    this.port2 = { postMessage: () => setImmediate(() => this.port1.onmessage()) };
  }
}

function isText({ kind }) {
  return kind === "text";
}

/** Counts the calls of a method in `counts`. */
function count(prototype, name, counts) {
  const method = prototype[name];
  prototype[name] = function (...given) {
    counts[name] += 1;
    return method.apply(this, given);
  };
}

/** Returns a Generator that has read its prompt, an id at a time. */
function prefilled(model, tokenizer, prompt, sampling) {
  const generator = new Generator(model, tokenizer, prompt, sampling);
  while (!generator.isReady) generator.prefill(() => false);
  return generator;
}

function load(file) {
  const bytes = readFileSync(file);
  return readSafetensors(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function loadModel(file) {
  const { metadata, tensors } = load(file);
  const tokenizer = metadata.tokenizer ? makeTokenizer(JSON.parse(metadata.tokenizer)) : null;
  return { model: new Model(JSON.parse(metadata.settings), tensors), tokenizer };
}

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
process.stdout.write(JSON.stringify((await jobs[job.run](job)) ?? null), () => process.exit());
