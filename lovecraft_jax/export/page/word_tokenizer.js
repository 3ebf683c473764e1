/** Words as tokens, and rare words by their class and their spelling. Mirrors lovecraft_jax/data/word_tokenizer.py,
 * whose class WordTokenizer says what each value of data.rare means. */

import { loneSurrogates, utf8Bytes } from "./characters.js";
import { LEFT_OUT, REPLACEMENT_CHARACTER, UNKNOWN_ID } from "./encoded.js";
import { splitPretokens, splitPrompt } from "./pretokens.js";
import { Speller, cumulativeWeights, drawIndex } from "./speller.js";
import { FORMS, RARE_WORD, classify, compose, describeForm } from "./word_classes.js";

/** Characters of the longest stem that is generated. */
const LONGEST = 40;
/** How often a word is drawn from the model of spelling until it is one without an id; then a training word is
 * taken. */
const TRIES = 20;
/** The number of the most frequent words, from which the models of spelling learn. */
const SPELLER_WORDS = 200_000;
/** The number of classes that are learnt from contexts. */
const CLUSTERS = 16;
/** The letters of the context of runs that did not save them. */
const LETTERS_BEFORE = 5;
/** How many different rare words are kept with what they cost, which bounds memory. */
const KEPT_WORDS = 1 << 16;

/** A frequent pretoken has an id; `rare` says what becomes of the others. What only some texts need, such as the model
 * of spelling, is made when it is first needed. */
export class WordTokenizer {
  #types; // the pretokens of the training text, the most frequent first
  #counts; // of each of them
  #rare;
  #minCount;
  #clusters; // the classes of the first of them
  #letters;
  #leavesOut;
  #firstWord; // its id
  #words; // those that have ids
  #ids; // word: id
  #known = new Map(); // rare word: { classIndex, nats }
  #drawn = new Map(); // class: { temperature, sums }
  #rareShare = once(() => this.#makeRareShare());
  #speller = once(() => this.#makeSpeller());
  #clusterSpeller = once(() => this.#makeClusterSpeller());
  #clusterOf = once(() => new Map(Array.from(this.#clusters, (one, n) => [this.#types[n], one])));
  #withIds = once(() => this.#makeWithIds());
  #rareWords = once(() => this.#makeRareWords());

  /**
   * @param {{ counts: Object<string, number>, rare: string, min_count: number, vocab_size: number,
   *   clusters?: number[], n_classes?: number, letters?: number }} saved
   * @param {import("./cleaning.js").Cleaning} cleaning
   */
  constructor(saved, cleaning) {
    this.level = "words";
    this.cleaning = cleaning;
    const nClasses = numberOfClasses(saved.rare);
    if ((saved.n_classes ?? nClasses) !== nClasses) { // earlier versions did not save it
      throw new Error(`it has ${saved.n_classes} classes of rare words, this version of the package has ${nClasses}`);
    }
    const entries = inOrder(Object.entries(saved.counts));
    this.#types = entries.map(([word]) => word);
    this.#counts = entries.map(([, count]) => count);
    this.#rare = saved.rare;
    this.#minCount = saved.min_count;
    this.#clusters = saved.clusters ?? [];
    this.#letters = saved.letters ?? LETTERS_BEFORE;
    const frequent = this.#types.filter((_, n) => this.#counts[n] >= saved.min_count);
    const hasRare = frequent.length < entries.length || frequent.length >= saved.vocab_size - nClasses;
    this.#leavesOut = saved.rare === "drop" || !hasRare; // else nothing could train the ids of classes
    this.#firstWord = 1 + (this.#leavesOut ? 0 : nClasses);
    this.#words = frequent.slice(0, Math.max(0, saved.vocab_size - this.#firstWord));
    this.#ids = new Map(this.#words.map((word, n) => [word, this.#firstWord + n]));
    this.size = this.#firstWord + this.#words.length;
    this.startId = this.#ids.get(this.#words.find((word) => word.startsWith("\n"))) ?? UNKNOWN_ID;
  }

  /** @returns {import("./encoded.js").Token[]} A cleaned text as tokens. */
  encode(text) {
    const knownNats = this.#knownNats();
    return splitPretokens(text).map((word) => {
      const id = this.#ids.get(word);
      if (id !== undefined) return { id, text: word, nats: knownNats };
      const { classIndex, nats } = this.#price(word);
      return { id: this.#leavesOut ? LEFT_OUT : classIndex + 1, text: word, nats };
    });
  }

  /** @returns {import("./encoded.js").Prompt} A cleaned text that is to be continued. */
  encodePrompt(text) {
    const pretokens = splitPrompt(text);
    const ids = [this.startId];
    for (const word of pretokens) {
      const id = this.#ids.get(word);
      if (id !== undefined) ids.push(id);
      else if (!this.#leavesOut) ids.push(this.#classOf(word).classIndex + 1);
    }
    if (!pretokens.length) return { ids, cuts: [] };
    const last = pretokens.at(-1);
    const allowed = new Uint8Array(this.size);
    this.#words.forEach((word, n) => (allowed[this.#firstWord + n] = word.startsWith(last)));
    const isLastKept = this.#ids.has(last) || !this.#leavesOut;
    const kept = ids.length - (isLastKept ? 1 : 0);
    const longer = { kept, begun: utf8Bytes(last), allowed, nats: this.#knownNats() };
    if (this.#ids.has(last)) return { ids, cuts: [longer] };
    // A rare word may be complete, or the beginning of a frequent one.
    const all = new Uint8Array(this.size).fill(1, UNKNOWN_ID + 1);
    const complete = { kept: ids.length, begun: new Uint8Array(0), allowed: all, nats: this.#price(last).nats };
    return { ids, cuts: allowed.includes(1) ? [complete, longer] : [complete] };
  }

  /** @returns {string[]} The parts of a text that cannot be in a prompt, each once, in order. */
  unseen(text) {
    return loneSurrogates(text);
  }

  /**
   * The UTF-8 of a generated id. A class's word is drawn at this temperature.
   * @param {{ next: () => number } | null} random - Gives numbers in [0, 1), all equally likely; needed above 0.
   * @returns {Uint8Array}
   */
  generatedBytes(id, random, temperature) {
    if (id >= this.#firstWord) return utf8Bytes(this.#words[id - this.#firstWord]);
    if (id === UNKNOWN_ID) return utf8Bytes(REPLACEMENT_CHARACTER);
    const makeWord = this.#spellsOut() ? this.#spell : this.#draw;
    return utf8Bytes(makeWord.call(this, id - 1, random, temperature));
  }

  /** @returns {string} The text of an id, to be shown; "" for none. */
  tokenText(id) {
    return id >= this.#firstWord ? this.#words[id - this.#firstWord] : "";
  }

  /** @returns {string} What the words of a class are, to be shown; "" for an id that is no class. */
  describeClass(id) {
    if (id === UNKNOWN_ID || id >= this.#firstWord) return "";
    return this.#hasForms() ? describeForm(id - 1) : RARE_WORD;
  }

  #spellsOut() {
    return this.#rare === "spell" || this.#rare === "cluster";
  }

  /** Whether the classes that have ids are those of word_classes.js. */
  #hasForms() {
    return (this.#rare === "spell" || this.#rare === "class") && !this.#leavesOut;
  }

  #numberOfClasses() {
    return Math.max(1, this.#firstWord - 1);
  }

  /** What each word with an id costs on top of it: that it is none that is left out. */
  #knownNats() {
    return this.#leavesOut ? -Math.log1p(-this.#rareShare()) : 0;
  }

  /** The share of the tokens of an unseen text that are rare, by Good and Turing: of the tokens of the training text
   * that would be rare if it lacked them. */
  #makeRareShare() {
    let [rare, total] = [0, 0];
    this.#types.forEach((word, n) => {
      const count = this.#counts[n];
      total += count;
      if (count === this.#minCount || !this.#ids.has(word)) rare += count;
    });
    return total > 1 ? Math.min(Math.max(rare, 1), total - 1) / total : 0.5;
  }

  /** @returns {{ classIndex: number, stem: string }} The class of a word, and what of it is left to spell. */
  #classOf(word) {
    if (this.#hasForms()) return classify(word);
    if (!this.#clusters.length) return { classIndex: 0, stem: word };
    const classIndex = this.#clusterOf().get(word) ?? this.#clusterSpeller().likeliestClasses([word])[0];
    return { classIndex, stem: word };
  }

  /** @returns {{ classIndex: number, nats: number }} The class of a rare word, and what it costs on top of its id. */
  #price(word) {
    let price = this.#known.get(word);
    if (!price) {
      const { classIndex, stem } = this.#classOf(word);
      const [spelling] = this.#speller().nats([stem], [classIndex]);
      const flag = this.#leavesOut ? -Math.log(this.#rareShare()) : 0;
      price = { classIndex, nats: spelling + Math.log1p(-this.#withIds()[classIndex]) + flag };
      if (this.#known.size >= KEPT_WORDS) this.#known.clear();
      this.#known.set(word, price);
    }
    return price;
  }

  #makeSpeller() {
    const found = this.#types.slice(0, SPELLER_WORDS).map((word) => this.#classOf(word));
    const stems = found.map(({ stem }) => stem);
    const classes = found.map(({ classIndex }) => classIndex);
    const letters = this.#spellsOut() ? this.#letters : null;
    return new Speller(stems, classes, this.#numberOfClasses(), this.cleaning.alphabetSize, letters);
  }

  /** How the words with ids are spelt, by the classes that are learnt from their contexts. */
  #makeClusterSpeller() {
    const words = this.#words.slice(0, SPELLER_WORDS);
    const classes = this.#clusters.slice(0, words.length);
    return new Speller(words, classes, CLUSTERS, this.cleaning.alphabetSize, this.#letters);
  }

  /** The probability by class that a spelled word is one of the class that has an id [C]. */
  #makeWithIds() {
    const found = this.#words.map((word) => this.#classOf(word));
    const classes = found.map(({ classIndex }) => classIndex);
    const nats = this.#speller().nats(found.map(({ stem }) => stem), classes);
    const withIds = new Float64Array(this.#numberOfClasses());
    classes.forEach((one, n) => (withIds[one] += Math.exp(-nats[n])));
    return withIds;
  }

  /** Generates a word of a class: one pretoken, which has no id. After TRIES draws that are no such word it is one of
   * the training text. */
  #spell(classIndex, random, temperature) {
    for (let n = 0; n < (temperature > 0 ? TRIES : 1); n++) {
      const stem = this.#speller().generate(classIndex, random, LONGEST, temperature);
      const word = this.#hasForms() ? compose(classIndex, stem) : stem;
      if (!this.#ids.has(word) && splitPretokens(word).length === 1) return word;
    }
    return this.#draw(classIndex, random, temperature);
  }

  /** Draws a rare word of the training text of this class, by its frequency; of any class where this has none. */
  #draw(classIndex, random, temperature) {
    const byClass = this.#rareWords();
    const [one, { words, counts }] = byClass.has(classIndex) ? [classIndex, byClass.get(classIndex)] : [...byClass][0];
    let drawn = this.#drawn.get(one);
    if (drawn?.temperature !== temperature) {
      drawn = { temperature, sums: cumulativeWeights(counts, temperature) };
      this.#drawn.set(one, drawn);
    }
    return words[drawIndex(drawn.sums, temperature > 0 ? random.next() : 0)];
  }

  /** @returns {Map<number, { words: string[], counts: number[] }>} The training words without an id by class. */
  #makeRareWords() {
    const byClass = new Map();
    this.#types.forEach((word, n) => {
      if (this.#ids.has(word)) return;
      const { classIndex } = this.#classOf(word);
      if (!byClass.has(classIndex)) byClass.set(classIndex, { words: [], counts: [] });
      byClass.get(classIndex).words.push(word);
      byClass.get(classIndex).counts.push(this.#counts[n]);
    });
    return byClass;
  }
}

/** @returns {number} The number of classes that rare words have. */
function numberOfClasses(rare) {
  if (rare === "spell" || rare === "class") return FORMS.length;
  return rare === "cluster" ? CLUSTERS : 1;
}

/** The entries of the saved counts in the order of the file: the most frequent first, ties by code point. JavaScript
 * puts the keys of an object that are whole numbers before all others. */
function inOrder(entries) {
  return entries.sort((entry, other) => other[1] - entry[1] || compareCodePoints(entry[0], other[0]));
}

/** Below 0 where the first text comes first by code point: `<` has another order beyond the basic plane. */
function compareCodePoints(text, other) {
  let place = 0;
  while (place < text.length && text[place] === other[place]) place++;
  return (text.codePointAt(place) ?? -1) - (other.codePointAt(place) ?? -1);
}

/** @returns {() => any} A function that makes its value at the first call. */
function once(make) {
  let made;
  return () => (made ??= make());
}
