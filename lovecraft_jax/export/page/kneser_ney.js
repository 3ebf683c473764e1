/**
 * The counts of an n-gram of symbols with modified Kneser-Ney smoothing (Chen and Goodman 1998), as the tables of
 * lovecraft_jax/data/speller.py and kneser_ney.py have them. Sums are added up in the same order, so that of two
 * symbols that are nearly equally likely the same one is the likelier.
 */

/** For counts of 1, 2 and more, where the words are too few to estimate them from. */
const DISCOUNTS = [0.5, 1.0, 1.5];

/** Numbers different pairs of whole numbers from 0 on, in the order in which they are added: a hash table with open
 * addressing, of typed arrays: a Map from pairs packed into one number takes several times as long. */
class PairNumbers {
  #slots = new Int32Array(1 << 8).fill(-1); // numbers of pairs, at most half full

  constructor() {
    this.size = 0;
    this.firsts = new Int32Array(1 << 7);
    this.seconds = new Int32Array(1 << 7);
  }

  /** @returns {number} The number of a pair, or -1. */
  find(first, second) {
    return this.#slots[this.#slotOf(first, second)];
  }

  /** @returns {number} The number of a pair: the number of pairs before if it is new. */
  add(first, second) {
    const slot = this.#slotOf(first, second);
    const found = this.#slots[slot];
    if (found >= 0) return found;
    this.#slots[slot] = this.size;
    this.firsts[this.size] = first;
    this.seconds[this.size] = second;
    if (++this.size === this.firsts.length) this.#grow();
    return this.size - 1;
  }

  #slotOf(first, second) {
    const mask = this.#slots.length - 1;
    const mixed = Math.imul(Math.imul(first, 0x9e3779b1) ^ second, 0x85ebca6b);
    for (let slot = (mixed ^ (mixed >>> 15)) & mask; ; slot = (slot + 1) & mask) {
      const number = this.#slots[slot];
      if (number < 0 || (this.firsts[number] === first && this.seconds[number] === second)) return slot;
    }
  }

  #grow() {
    const { firsts, seconds } = this;
    this.firsts = new Int32Array(2 * this.size);
    this.firsts.set(firsts);
    this.seconds = new Int32Array(2 * this.size);
    this.seconds.set(seconds);
    this.#slots = new Int32Array(4 * this.size).fill(-1);
    for (let number = 0; number < this.size; number++) {
      this.#slots[this.#slotOf(firsts[number], seconds[number])] = number;
    }
  }
}

/** The n-grams of one length: contexts by their number, and the counts of what follows each. */
class Table {
  /**
   * @param {PairNumbers} contexts - By the number of the context without its first symbol, and that symbol.
   * @param {PairNumbers} grams - By the number of the context, and the symbol after it.
   * @param {Int32Array} counts - Of each n-gram.
   */
  constructor(contexts, grams, counts) {
    this.contexts = contexts;
    this.grams = grams;
    this.counts = counts;
    this.discount = Float64Array.of(0, ...discounts(counts)); // by count, up to 3
    this.total = new Float64Array(contexts.size); // of the counts of each context
    this.left = new Float64Array(contexts.size); // of each context: what the discounts take from it
    this.last = new Int32Array(contexts.size).fill(-1); // the last n-gram of each context
    this.previous = new Int32Array(counts.length); // of each n-gram: the one before it in its context, or -1
    for (let gram = 0; gram < counts.length; gram++) {
      const context = grams.firsts[gram];
      this.total[context] += counts[gram];
      this.left[context] += this.discount[Math.min(counts[gram], 3)];
      this.previous[gram] = this.last[context];
      this.last[context] = gram;
    }
  }

  /** @returns {number} The probability of a symbol in a context, from that in the context without its first symbol. */
  interpolate(context, symbol, lower) {
    if (this.total[context] === 0) return lower; // there is no word
    const gram = this.grams.find(context, symbol);
    const count = gram < 0 ? 0 : this.counts[gram];
    const kept = count - this.discount[Math.min(count, 3)];
    return (kept + this.left[context] * lower) / this.total[context];
  }

  /** The same for all symbols, in place [V]. */
  interpolateAll(context, probs) {
    const total = this.total[context];
    const left = this.left[context];
    for (let symbol = 0; symbol < probs.length; symbol++) probs[symbol] *= left;
    for (let gram = this.last[context]; gram >= 0; gram = this.previous[gram]) {
      const count = this.counts[gram];
      probs[this.grams.seconds[gram]] += count - this.discount[Math.min(count, 3)];
    }
    for (let symbol = 0; symbol < probs.length; symbol++) probs[symbol] /= total;
  }
}

/** An n-gram of the symbols of words. A word is its class, an END, its characters, and an END again. What is predicted
 * are its characters and the last END; their context is the characters before them, the first END and the class. */
export class Ngram {
  #size;
  #letters;
  #tables; // by the length of the context
  #contexts; // the numbers of the contexts of the symbol that is looked up, by their lengths

  /**
   * @param {Int32Array} symbols - Of all words, one after another [N].
   * @param {Int32Array} places - Of each symbol: how far it is behind its word's first END; above 0 it is predicted
   *   [N].
   * @param {number} size - Symbols that can be predicted: all but those of classes, which are larger.
   * @param {number | null} letters - How many characters, the first END among them, a context has besides the class;
   *   null: no context, not even the class.
   */
  constructor(symbols, places, size, letters) {
    this.#size = size;
    this.#letters = letters;
    const order = orderOfSymbols(symbols, places, size);
    const contextOf = new Int32Array(order.length);
    const shorterOf = new Int32Array(order.length); // the n-gram without its first symbol
    const levels = [];
    let contexts = new PairNumbers();
    contexts.add(0, 0); // the empty context
    for (let length = 0, rows = order.length; contexts.size; length++) {
      const grams = new PairNumbers();
      const counts = new Int32Array(rows);
      const longer = new PairNumbers();
      let kept = 0; // rows that have a longer context: all of an n-gram, or none, where its context has the class
      for (let row = 0; row < rows; row++) {
        const n = order[row];
        const known = grams.size;
        const gram = grams.add(contextOf[row], symbols[n]);
        counts[gram]++;
        if (length > 0 && gram === known) levels[length - 1].preceded[shorterOf[row]]++;
        if (!this.#hasContext(places[n], length + 1)) continue;
        contextOf[kept] = longer.add(contextOf[row], this.#symbolBefore(symbols, n, places[n], length + 1));
        shorterOf[kept] = gram;
        order[kept++] = n;
      }
      // `preceded`: how many different symbols stand before each n-gram.
      levels.push({ contexts, grams, counts: counts.slice(0, grams.size), preceded: new Int32Array(grams.size) });
      contexts = longer;
      rows = kept;
    }
    this.#tables = levels.map(({ contexts, grams, counts, preceded }) => {
      return new Table(contexts, grams, counts.map((count, gram) => preceded[gram] || count));
    });
    this.#contexts = new Int32Array(this.#tables.length);
  }

  /** @returns {number} The probability that the symbol with the index n of one word is this one. */
  prob(symbols, n, symbol) {
    const lengths = this.#findContexts(symbols, n);
    let prob = 1 / this.#size;
    for (let length = 0; length < lengths; length++) {
      prob = this.#tables[length].interpolate(this.#contexts[length], symbol, prob);
    }
    return prob;
  }

  /** @returns {Float64Array} The probability of every symbol after these, the beginning of a word [V]. */
  probsAfter(symbols) {
    const lengths = this.#findContexts(symbols, symbols.length);
    const probs = new Float64Array(this.#size).fill(1 / this.#size);
    for (let length = 0; length < lengths; length++) {
      this.#tables[length].interpolateAll(this.#contexts[length], probs);
    }
    return probs;
  }

  /** Finds the contexts of the symbol with the index n of one word. @returns {number} How many there are. */
  #findContexts(symbols, n) {
    const place = n - 1; // behind the class and the first END
    let length = 1;
    for (; length < this.#tables.length && this.#hasContext(place, length); length++) {
      const before = this.#symbolBefore(symbols, n, place, length);
      const context = this.#tables[length].contexts.find(this.#contexts[length - 1], before);
      if (context < 0) break;
      this.#contexts[length] = context;
    }
    return length;
  }

  /** Whether a symbol at this place of a word has a context of this length. */
  #hasContext(place, length) {
    return this.#letters !== null && length <= Math.min(this.#letters, place) + 1;
  }

  /** The first symbol of the context of this length, before the symbol with the index n: a character, or the class. */
  #symbolBefore(symbols, n, place, length) {
    return symbols[n - (length <= this.#letters ? length : place + 1)];
  }
}

/** @returns {Int32Array} The indices of what is predicted, ordered by symbol: so a context's n-grams are numbered, and
 * added up, in the order of their symbols. */
function orderOfSymbols(symbols, places, size) {
  const begins = new Int32Array(size + 1);
  for (let n = 0; n < symbols.length; n++) if (places[n] > 0) begins[symbols[n] + 1]++;
  for (let symbol = 0; symbol < size; symbol++) begins[symbol + 1] += begins[symbol];
  const order = new Int32Array(begins[size]);
  for (let n = 0; n < symbols.length; n++) if (places[n] > 0) order[begins[symbols[n]]++] = n;
  return order;
}

/** @returns {number[]} The discounts for counts of 1, 2 and more, estimated from how many n-grams have a count of 1, 2,
 * 3 and 4 (equation 26 of Chen and Goodman): DISCOUNTS where none has one of these, or the estimate is not above 0. */
function discounts(counts) {
  const n = new Float64Array(6);
  for (const count of counts) n[Math.min(count, 5)]++;
  if (!n.subarray(1, 5).every(Boolean)) return DISCOUNTS;
  const y = n[1] / (n[1] + 2 * n[2]);
  const estimated = [1 - (2 * y * n[2]) / n[1], 2 - (3 * y * n[3]) / n[2], 3 - (4 * y * n[4]) / n[3]];
  return Math.min(...estimated) > 0 ? estimated : DISCOUNTS;
}
