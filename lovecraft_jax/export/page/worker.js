/**
 * The model at work, in a Web Worker. It works in slices of some ten milliseconds, between which it receives messages:
 * so it pauses at once, and generates and reads at the same time.
 *
 * Messages to it, by `kind`:
 *   load   { weights }  a safetensors file in base64; comes first
 *   write  { id, prompt, sampling, length, pace }  begins a text of `length` characters; `pace`: characters a second,
 *          0: all it can
 *   set    { sampling, length, pace }  changes them for the text that is being generated
 *   pause  {}
 *   go on  {}  after a pause, or `length` characters more after the end
 *   bring back {}  the text before the one that was begun last, which then is the one before; both pause
 *   read   { id, text, cursor }  takes the place of any text that is being read
 * Messages from it:
 *   loaded {}
 *   begun  { id, prompt, dropped }  the prompt as the model knows it, and the characters that are left out
 *   text   { id, text, milliseconds, isDone }  what was added, and how long that took
 *   tokens { id, from, tokens, share }  replaces the tokens from the index `from` on; `share` of the text has been read
 *   read   { id, at, continuations, dropped }  the end of a reading; `at`: the number of tokens that begin before the
 *          cursor; continuations: as Reader gives them, and where it takes long to complete these to words, once more
 *   failed { message }
 */

import { Generator } from "./generator.js";
import { Model } from "./model.js";
import { Reader } from "./reader.js";
import { readSafetensors } from "./safetensors.js";
import { makeTokenizer } from "./tokenizer.js";

const SLICE_MS = 30; // a slice has at least one token, which takes longer with a large model

/** Serves the messages of a port: `self` of a worker, or a MessagePort. */
export function serve(port) {
  const service = new Service((message) => port.postMessage(message));
  port.onmessage = ({ data }) => service.receive(data);
}

class Service {
  constructor(send) {
    this.send = send;
    this.runSoon = makeQueue();
    this.writing = null;
    this.written = null; // the text before it
    this.reading = null;
  }

  receive(message) {
    this.guarded(() => {
      if (message.kind === "load") this.load(message);
      else if (message.kind === "write") this.write(message);
      else if (message.kind === "set") this.set(message);
      else if (message.kind === "pause") this.pause();
      else if (message.kind === "go on") this.goOn();
      else if (message.kind === "bring back") this.bringBack();
      else if (message.kind === "read") this.read(message);
      else throw new Error(`unknown message "${message.kind}"`);
    });
  }

  load({ weights }) {
    const { metadata, tensors } = readSafetensors(decodeBase64(weights));
    const model = new Model(JSON.parse(metadata.settings), tensors);
    this.model = model;
    this.tokenizer = makeTokenizer(JSON.parse(metadata.tokenizer));
    this.reader = new Reader(model, this.tokenizer);
    this.posted = []; // the tokens that the page has
    this.send({ kind: "loaded" });
  }

  write({ id, prompt, sampling, length, pace }) {
    const { known, dropped } = splitKnown(this.tokenizer, prompt);
    this.written = this.writing;
    this.writing = { id, prompt: known, sampling: { ...sampling }, length, pace, written: 0, isRunning: true };
    this.send({ kind: "begun", id, prompt: known, dropped });
    this.scheduleWriting();
  }

  set({ sampling, length, pace }) {
    if (!this.writing) return;
    Object.assign(this.writing.sampling, sampling);
    Object.assign(this.writing, { length, pace });
  }

  pause() {
    if (this.writing) this.writing.isRunning = false;
  }

  goOn() {
    const job = this.writing;
    if (!job) return;
    if (job.isDone) Object.assign(job, { isDone: false, written: 0 });
    job.isRunning = true;
    this.scheduleWriting();
  }

  bringBack() {
    this.pause();
    [this.writing, this.written] = [this.written, this.writing];
    this.pause();
  }

  read({ id, text, cursor }) {
    this.reading = { id, text, cursor };
    this.scheduleReading();
  }

  scheduleWriting(delay = 0) {
    const job = this.writing;
    if (job.isScheduled) return;
    job.isScheduled = true;
    const run = () => this.guarded(() => this.writeSlice(job));
    if (delay) setTimeout(run, delay);
    else this.runSoon(run);
  }

  writeSlice(job) {
    job.isScheduled = false;
    if (job !== this.writing || !job.isRunning) return;
    const mayGoOn = untilEndOfSlice();
    job.generator ??= new Generator(this.model, this.tokenizer, job.prompt, job.sampling);
    if (!job.generator.isReady) {
      job.generator.prefill(mayGoOn);
      return this.scheduleWriting();
    }
    const start = performance.now();
    let text = "";
    let characters = 0;
    do {
      const part = job.generator.next();
      text += part;
      characters += Array.from(part).length;
      if (text && (!job.written || job.pace)) break; // the first character as soon as it is there
    } while (job.written + characters < job.length && mayGoOn());
    job.written += characters;
    job.isDone = job.written >= job.length;
    this.send({ kind: "text", id: job.id, text, milliseconds: performance.now() - start, isDone: job.isDone });
    if (!job.isDone) this.scheduleWriting(job.pace ? (1000 * characters) / job.pace : 0);
  }

  scheduleReading() {
    if (this.isReadingScheduled) return;
    this.isReadingScheduled = true;
    this.runSoon(() => this.guarded(() => this.readSlice()));
  }

  readSlice() {
    this.isReadingScheduled = false;
    const { id, text, isRead } = this.reading;
    if (isRead) return this.completeSlice(this.reading);
    if (this.reader.text !== text) this.reader.begin(text);
    this.reading.isRead = this.reader.advance(untilEndOfSlice());
    this.sendTokens(id);
    this.scheduleReading();
  }

  completeSlice(job) {
    const { id, text, cursor } = job;
    const mayGoOn = untilEndOfSlice();
    const isFirst = !job.completions;
    job.completions ??= this.reader.completions(text.slice(0, cursor));
    let step = job.completions.next();
    while (!step.done && mayGoOn()) step = job.completions.next();
    const found = { at: this.tokensBefore(cursor), continuations: step.value };
    if (isFirst || step.done) this.send({ kind: "read", id, ...found, dropped: this.tokenizer.cleaning.lost(text) });
    if (!step.done) this.scheduleReading();
  }

  sendTokens(id) {
    const { tokens, share } = this.reader;
    let from = 0;
    while (from < Math.min(tokens.length, this.posted.length) && isSame(tokens[from], this.posted[from])) from++;
    this.posted = tokens;
    this.send({ kind: "tokens", id, from, tokens: tokens.slice(from), share });
  }

  /** Returns the number of tokens of the text that has been read which begin before the cursor. */
  tokensBefore(cursor) {
    const { length } = this.tokenizer.cleaning.apply(this.reading.text.slice(0, cursor));
    let characters = 0;
    let count = 0;
    while (characters < length && count < this.posted.length) characters += this.posted[count++].text.length;
    return count;
  }

  guarded(action) {
    try {
      action();
    } catch (error) {
      this.send({ kind: "failed", message: `${error.message ?? error}` });
    }
  }
}

/** Returns a text without the characters that the model does not know, and these, each once. */
function splitKnown(tokenizer, text) {
  const cleaned = tokenizer.cleaning.apply(text);
  const unseen = tokenizer.unseen(cleaned);
  const known = unseen.length ? Array.from(cleaned).filter((char) => !unseen.includes(char)) : [cleaned];
  return { known: known.join(""), dropped: [...tokenizer.cleaning.lost(text), ...unseen] };
}

/** Returns a function that says whether there is time left in a slice that begins now. */
function untilEndOfSlice() {
  const end = performance.now() + SLICE_MS;
  return () => performance.now() < end;
}

/** Returns a function that runs jobs one by one, with messages in between; a timer would wait 4 ms for each. */
function makeQueue() {
  const channel = new MessageChannel();
  const jobs = [];
  channel.port1.onmessage = () => jobs.shift()();
  return (job) => {
    jobs.push(job);
    channel.port2.postMessage(null);
  };
}

/** Returns the ArrayBuffer of a text in base64. */
function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let n = 0; n < bytes.length; n++) bytes[n] = binary.charCodeAt(n);
  return bytes.buffer;
}

function isSame(one, other) {
  return one.text === other.text && one.bits === other.bits;
}
