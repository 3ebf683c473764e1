/**
 * The model at work, in a Web Worker. It works in slices of some ten milliseconds, between which it receives messages: so it pauses
 * at once, and writes and reads at the same time.
 *
 * Messages to it, by `kind`:
 *   load   { weights }  a safetensors file in base64; comes first
 *   write  { id, prompt, sampling, length, pace }  begins a text of `length` characters; `pace`: characters a second, 0: all it can
 *   set    { sampling, length, pace }  changes them for the text that is being written
 *   pause  {}
 *   go on  {}  after a pause, or `length` characters more after the end
 *   read   { id, text, cursor }  takes the place of any text that is being read
 * Messages from it:
 *   loaded {}
 *   begun  { id, prompt, dropped }  the prompt as the model knows it, and the characters that it does not know
 *   text   { id, text, milliseconds, isDone }  what was added, and how long that took
 *   tokens { id, from, tokens, share }  replaces the tokens from the index `from` on; `share` of the text has been read
 *   read   { id, at, continuations, dropped }  the end of a reading; `at`: the number of tokens before the cursor; a
 *          continuation { text, probability, isClass }: the text of a class of words is a description
 *   failed { message }
 */

import { Model } from "./model.js";
import { Reader } from "./reader.js";
import { readSafetensors } from "./safetensors.js";
import { makeTokenizer } from "./tokenizer.js";
import { FORMS, describeForm } from "./word_classes.js";
import { Writer } from "./writer.js";

const SLICE_MS = 30;
const READING_MS = 60; // a slice of reading, in each of which the continuations are computed too
const LEAST_STEP = 25; // characters of such a slice
const FIRST_STEP = 100;
const MOST_STEP = 8192;

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
    this.reading = null;
  }

  receive(message) {
    this.guarded(() => {
      if (message.kind === "load") this.load(message);
      else if (message.kind === "write") this.write(message);
      else if (message.kind === "set") this.set(message);
      else if (message.kind === "pause") this.pause();
      else if (message.kind === "go on") this.goOn();
      else if (message.kind === "read") this.read(message);
      else throw new Error(`unknown message "${message.kind}"`);
    });
  }

  load({ weights }) {
    const { metadata, tensors } = readSafetensors(decodeBase64(weights));
    const model = new Model(JSON.parse(metadata.settings), tensors);
    this.model = model;
    this.tokenizer = makeTokenizer(JSON.parse(metadata.tokenizer));
    this.whole = new SteppedReader(new Reader(model, this.tokenizer));
    this.before = new SteppedReader(new Reader(model, this.tokenizer)); // of the text before the cursor
    const descriptions = ["a rare word", ...FORMS.map((_, n) => describeForm(n))];
    this.classes = new Set(this.tokenizer.level === "words" ? descriptions : []);
    this.posted = []; // the tokens that the page has
    this.send({ kind: "loaded" });
  }

  write({ id, prompt, sampling, length, pace }) {
    const { known, dropped } = splitKnown(this.tokenizer, prompt);
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
    const start = performance.now();
    const isFirst = !job.writer;
    job.writer ??= new Writer(this.model, this.tokenizer, job.prompt, job.sampling);
    let text = "";
    let characters = 0;
    do {
      const part = job.writer.next();
      text += part;
      characters += Array.from(part).length;
      if (text && (isFirst || job.pace)) break; // the first character as soon as it is there
    } while (job.written + characters < job.length && performance.now() < start + SLICE_MS);
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
    const { id, text, cursor } = this.reading;
    if (!this.whole.hasRead(text)) {
      this.whole.advance(text);
      this.sendTokens(id, this.whole.end / Math.max(1, text.length));
      return this.scheduleReading();
    }
    const reader = cursor < text.length ? this.before : this.whole;
    const upToCursor = text.slice(0, cursor);
    if (!reader.hasRead(upToCursor)) {
      reader.advance(upToCursor);
      return this.scheduleReading();
    }
    const { tokens, continuations } = reader.result;
    const { dropped } = splitKnown(this.tokenizer, text);
    const marked = continuations.map((one) => ({ ...one, isClass: this.classes.has(one.text) }));
    this.send({ kind: "read", id, at: tokens.length, continuations: marked, dropped });
  }

  sendTokens(id, share) {
    const { tokens } = this.whole.result;
    let from = 0;
    while (from < Math.min(tokens.length, this.posted.length) && isSame(tokens[from], this.posted[from])) from++;
    this.posted = tokens;
    this.send({ kind: "tokens", id, from, tokens: tokens.slice(from), share });
  }

  guarded(action) {
    try {
      action();
    } catch (error) {
      this.send({ kind: "failed", message: `${error.message ?? error}` });
    }
  }
}

/** Reads a text with a Reader in steps of about READING_MS each, as the Reader keeps what it has read. */
class SteppedReader {
  constructor(reader) {
    this.reader = reader;
    this.text = null; // what has been read, the beginning of the text
    this.result = { tokens: [], continuations: [] };
    this.step = FIRST_STEP;
  }

  get end() {
    return this.text === null ? 0 : this.text.length;
  }

  hasRead(text) {
    return this.text === text;
  }

  advance(text) {
    const begin = commonLength(this.text ?? "", text);
    const end = endOfCharacter(text, begin + this.step);
    const start = performance.now();
    this.text = text.slice(0, end);
    this.result = this.reader.read(this.text);
    const perCharacter = Math.max(0.001, performance.now() - start) / Math.max(1, end - begin);
    this.step = Math.ceil(Math.max(LEAST_STEP, Math.min(READING_MS / perCharacter, 2 * this.step, MOST_STEP)));
  }
}

/** Returns a text without the characters that the model does not know, and these, each once. */
function splitKnown(tokenizer, text) {
  const cleaned = tokenizer.cleaning.apply(text);
  const unseen = tokenizer.unseen(cleaned);
  const known = unseen.length ? Array.from(cleaned).filter((char) => !unseen.includes(char)) : [cleaned];
  return { known: known.join(""), dropped: [...tokenizer.cleaning.lost(text), ...unseen] };
}

/** Returns a function that runs jobs one after the other, with messages in between; a timer would wait 4 ms for each. */
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

function commonLength(one, other) {
  let n = 0;
  while (n < Math.min(one.length, other.length) && one[n] === other[n]) n++;
  return n;
}

/** Returns the index `end` of a text or, within a surrogate pair, the one after it; the text's length where it is shorter. */
function endOfCharacter(text, end) {
  const isWithin = end < text.length && /[\ud800-\udbff]/.test(text[end - 1]) && /[\udc00-\udfff]/.test(text[end]);
  return Math.min(text.length, end + (isWithin ? 1 : 0));
}
