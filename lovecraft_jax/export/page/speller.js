/**
 * A model of how words are spelt: an interpolated Kneser-Ney n-gram of the characters of many words, by class of word.
 * It gives the cost of spelling a word that the vocabulary lacks, and generates such words. Mirrors
 * lovecraft_jax/data/speller.py, which has the formula.
 */

import { codePoints } from "./characters.js";
import { Ngram } from "./kneser_ney.js";

/** Symbols: before a word's first character and after its last, a character that no training word has, the first that
 * one has. */
const END = 0;
const OTHER = 1;
const FIRST_LETTER = 2;

/** The model of the spelling of words that have classes. */
export class Speller {
  #letters; // the code points that the words have, in ascending order
  #symbolOf; // code point: symbol
  #size; // symbols that can follow; those of classes come after them
  #wordsByClass; // [C]
  #otherNats;
  #seesBegin; // whether the context has the END before a word's first character
  #ngram;

  /**
   * @param {string[]} words
   * @param {number[]} classes - Of each word: a number below `nClasses`.
   * @param {number} nClasses
   * @param {number} alphabetSize - A character that no word has is one of so many, all equally likely.
   * @param {number | null} letters - The context is the class and so many characters; null: nothing, so that it is a
   *   unigram model of characters.
   */
  constructor(words, classes, nClasses, alphabetSize, letters) {
    const pointsOfWords = words.map(codePoints);
    const different = new Set();
    for (const points of pointsOfWords) for (const point of points) different.add(point);
    this.#letters = Int32Array.from(different).sort();
    this.#symbolOf = new Map(Array.from(this.#letters, (point, n) => [point, FIRST_LETTER + n]));
    this.#size = FIRST_LETTER + this.#letters.length;
    this.#otherNats = Math.log(alphabetSize);
    this.#wordsByClass = new Float64Array(nClasses);
    for (const one of classes) this.#wordsByClass[one]++;
    const length = pointsOfWords.reduce((sum, points) => sum + points.length + 3, 0);
    const symbols = new Int32Array(length);
    const places = new Int32Array(length);
    let begin = 0;
    pointsOfWords.forEach((points, w) => {
      this.#writeSymbols(points, classes[w], symbols.subarray(begin));
      for (let n = 0; n < points.length + 3; n++) places[begin++] = n - 1;
    });
    this.#seesBegin = letters > 0;
    this.#ngram = new Ngram(symbols, places, this.#size, letters);
  }

  /** @returns {Float64Array} What each word, of a character or more, costs, given its class and its end included
   * [W]. */
  nats(words, classes) {
    return Float64Array.from(words, (word, w) => this.#natsOf(this.#symbols(word, classes[w])));
  }

  /** @returns {number[]} The class that each word is most likely to have by its spelling and the sizes of the classes
   * [W]. */
  likeliestClasses(words) {
    const priors = this.#wordsByClass.map((count) => Math.log(count + 0.5)); // a class may have no words
    return words.map((word) => {
      const symbols = this.#symbols(word, 0);
      const scores = priors.map((prior, one) => {
        symbols[0] = this.#size + one;
        return prior - this.#natsOf(symbols);
      });
      return indexOfLargest(scores);
    });
  }

  /**
   * A new word of a class, cut after `longest` characters. Each is drawn at this temperature (0: always the likeliest),
   * and none is OTHER.
   * @param {{ next: () => number } | null} random - Gives numbers in [0, 1), all equally likely; needed above 0.
   * @returns {string}
   */
  generate(classIndex, random, longest, temperature) {
    const symbols = [this.#size + classIndex, END];
    for (let length = 0; length < longest; length++) {
      const probs = this.#ngram.probsAfter(symbols);
      probs[OTHER] = 0;
      if (length === 0 && this.#seesBegin) probs[END] = 0;
      const symbol = drawIndex(cumulativeWeights(probs, temperature), temperature > 0 ? random.next() : 0);
      if (symbol === END) break;
      symbols.push(symbol);
    }
    return String.fromCodePoint(...symbols.slice(2).map((symbol) => this.#letters[symbol - FIRST_LETTER]));
  }

  /** @returns {Int32Array} The class of a word, END, its characters and END. */
  #symbols(word, classIndex) {
    const points = codePoints(word);
    const symbols = new Int32Array(points.length + 3);
    this.#writeSymbols(points, classIndex, symbols);
    return symbols;
  }

  #writeSymbols(points, classIndex, symbols) {
    symbols[0] = this.#size + classIndex;
    symbols[1] = END;
    for (let n = 0; n < points.length; n++) symbols[n + 2] = this.#symbolOf.get(points[n]) ?? OTHER;
    symbols[points.length + 2] = END;
  }

  #natsOf(symbols) {
    let nats = Math.log1p(-this.#ngram.prob(symbols, 2, END)); // no word is empty
    for (let n = 2; n < symbols.length; n++) {
      nats -= Math.log(this.#ngram.prob(symbols, n, symbols[n]));
      if (symbols[n] === OTHER) nats += this.#otherNats;
    }
    return nats;
  }
}

/** @returns {Float64Array} The cumulative sums of the weights to the power of 1 / temperature, the largest being 1; at
 * 0 all others are 0 [N]. */
export function cumulativeWeights(weights, temperature) {
  const largest = indexOfLargest(weights);
  const logLargest = Math.log(weights[largest]);
  const sums = new Float64Array(weights.length);
  let sum = 0;
  for (let n = 0; n < weights.length; n++) {
    if (temperature > 0) sum += Math.exp((Math.log(weights[n]) - logLargest) / temperature);
    else if (n === largest) sum = 1;
    sums[n] = sum;
  }
  return sums;
}

/** @returns {number} An index, drawn by its weight: the first whose cumulative sum is above `uniform` of the total. */
export function drawIndex(sums, uniform) {
  const wanted = uniform * sums[sums.length - 1];
  let [low, high] = [0, sums.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sums[middle] > wanted) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Of equals the first. */
function indexOfLargest(values) {
  let largest = 0;
  for (let n = 1; n < values.length; n++) if (values[n] > values[largest]) largest = n;
  return largest;
}
