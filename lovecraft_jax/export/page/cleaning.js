/** Cleaning of raw text before it becomes tokens, by the rules that are saved with a run. Mirrors
 * lovecraft_jax/data/cleaning.py. */

import { codePoints } from "./characters.js";

/** Characters in Unicode: all code points but the surrogates. */
const UNICODE_SCALARS = 0x110000 - 0x800;

/**
 * The rules by which a text is cleaned, in this order:
 * 1. Unicode NFC; CRLF and CR become LF.
 * 2. Every character in `table` is replaced by its entry.
 * 3. What is not in `keep` is dropped; `keep = null` keeps everything.
 */
export class Cleaning {
  #table;
  #keep;

  /** @param {{ alphabet: string, table: Object<string, string>, keep: string | null }} saved */
  constructor(saved) {
    this.alphabet = saved.alphabet;
    /** The number of characters that a cleaned text could hold. */
    this.alphabetSize = saved.keep === null ? UNICODE_SCALARS : codePoints(saved.keep).length;
    this.#table = new Map(Object.entries(saved.table));
    this.#keep = saved.keep === null ? null : new Set(saved.keep);
  }

  /** @returns {string} The cleaned text. */
  apply(text) {
    return this.#folded(text)
      .filter((char) => this.#keeps(char))
      .join("");
  }

  /** @returns {string[]} The characters of a text that would be dropped, each once, in order. */
  lost(text) {
    return [...new Set(this.#folded(text).filter((char) => !this.#keeps(char)))];
  }

  /** @returns {string[]} The characters of a text after the first two rules. */
  #folded(text) {
    const normal = text.normalize("NFC").replace(/\r\n?/g, "\n");
    return [...Array.from(normal, (char) => this.#table.get(char) ?? char).join("")];
  }

  #keeps(char) {
    return this.#keep === null || this.#keep.has(char);
  }
}
