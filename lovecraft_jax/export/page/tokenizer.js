/** Tokenizers: text to token ids and back. No other file may assume that a token is a character. */

import { BpeTokenizer } from "./bpe_tokenizer.js";
import { CharTokenizer } from "./char_tokenizer.js";
import { Cleaning } from "./cleaning.js";
import { WordTokenizer } from "./word_tokenizer.js";

/**
 * The tokenizer of a run, from its parsed vocab.json. All have `level`, what a token is; `size`, the number of ids;
 * `startId`, the id that stands before the first token of a text; `cleaning`, what a text needs before `encode`; and
 * the same methods.
 * @returns {CharTokenizer | BpeTokenizer | WordTokenizer}
 */
export function makeTokenizer(saved) {
  const cleaning = new Cleaning(saved.cleaning);
  if (saved.level === "chars") return new CharTokenizer(saved, cleaning);
  if (saved.level === "bpe") return new BpeTokenizer(saved, cleaning);
  if (saved.level === "words") return new WordTokenizer(saved, cleaning);
  throw new Error(`unknown level ${JSON.stringify(saved.level)}`);
}
