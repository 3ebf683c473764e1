/**
 * Splits a text into pretokens: words, numbers and punctuation, each with the space before it, and other white space.
 * Their concatenation is the text. Mirrors lovecraft_jax/data/pretokens.py.
 */

// What Python takes for white space: JavaScript's \s has neither \x1c-\x1f nor \x85, but U+FEFF.
const WHITE_BUT_NEWLINE = String.raw`\t\v-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000`;
const WHITE = String.raw`\n${WHITE_BUT_NEWLINE}`;
const LETTER = String.raw`\p{L}\p{M}\p{Nl}\p{No}`;

/** A sequence of newlines; a word, which may have apostrophes inside; a number; punctuation; a sequence of spaces, but
 * for the last where something follows it. */
const PRETOKEN = new RegExp(
  String.raw`\n+| ?[${LETTER}]+(?:'[${LETTER}]+)*| ?\p{Nd}+| ?[^${WHITE}${LETTER}\p{Nd}]+` +
    `|[${WHITE_BUT_NEWLINE}]+(?= [^${WHITE}])|[${WHITE_BUT_NEWLINE}]+`,
  "gu",
);
const ONLY_WHITE = new RegExp(`^[${WHITE}]+$`, "u");

/** @returns {string[]} The pretokens of a text in order. */
export function splitPretokens(text) {
  return text.match(PRETOKEN) ?? [];
}

/**
 * The pretokens of a text that goes on: the last one may be the beginning of a word. `splitPretokens` takes it for
 * complete: here "don'" is one pretoken, and of two spaces at the end the last belongs to what follows.
 * @returns {string[]}
 */
export function splitPrompt(text) {
  const pretokens = splitPretokens(`${text}a`);
  const last = pretokens.pop().slice(0, -1);
  return last ? [...pretokens, last] : pretokens;
}

/** @returns {boolean} Whether all characters of a text, of one or more, are white space. */
export function isWhite(text) {
  return ONLY_WHITE.test(text);
}
