/** Classes of pretokens by their form: what a word that is too rare for an id of its own still says about itself.
 * Mirrors lovecraft_jax/data/word_classes.py. */

import { isWhite } from "./pretokens.js";

const ENDINGS = ["ing", "ed", "ly", "tion", "ness", "ous", "able", "er", "est", "s"];
/** What is shown of a rare word of any class. */
export const RARE_WORD = "a rare word";
/** What is shown of a word of each kind that is not spelled yet. */
const DESCRIPTIONS = {
  newlines: "line breaks",
  spaces: "spaces",
  marks: "punctuation",
  number: "a number",
  capitals: `${RARE_WORD} in capitals`,
  Capital: `${RARE_WORD} with a capital`,
  apostrophe: `${RARE_WORD} with an apostrophe`,
  mixed: `${RARE_WORD} with capitals inside`,
  ...Object.fromEntries(ENDINGS.map((ending) => [ending, `${RARE_WORD} in -${ending}`])),
  word: RARE_WORD,
};
const KINDS = Object.keys(DESCRIPTIONS);

/** The names of the classes; those of pretokens that begin with a space do so too. */
export const FORMS = ["", " "].flatMap((before) => KINDS.map((kind) => before + kind));
const NUMBER_OF_FORM = new Map(FORMS.map((form, number) => [form, number]));

/**
 * The index of a pretoken's class in FORMS, and its stem: the pretoken without the space before it and without its
 * class's ending.
 * @returns {{ classIndex: number, stem: string }}
 */
export function classify(pretoken) {
  const before = pretoken.startsWith(" ") && !isWhite(pretoken) ? " " : "";
  const text = pretoken.slice(before.length);
  const kind = kindOf(text);
  const stem = ENDINGS.includes(kind) ? text.slice(0, -kind.length) : text;
  return { classIndex: NUMBER_OF_FORM.get(before + kind), stem };
}

/** @returns {string} The pretoken of a class and a stem: `classify` undone. */
export function compose(classIndex, stem) {
  const form = FORMS[classIndex];
  const kind = form.trimStart();
  return (form === kind ? "" : " ") + stem + (ENDINGS.includes(kind) ? kind : "");
}

/** @returns {string} What is shown of a word of a class that is not spelled yet. */
export function describeForm(classIndex) {
  return DESCRIPTIONS[FORMS[classIndex].trimStart()];
}

// Python's isdecimal, isalnum and isupper by the properties of Unicode on which they rest.
const ALL_DECIMAL = /^\p{Nd}+$/u;
const ANY_ALPHANUMERIC = /[\p{L}\p{N}]/u;
const ANY_LOWER = /[\p{Lowercase}\p{Lt}]/u;
const ANY_UPPER = /\p{Uppercase}/u;
const FIRST_UPPER = /^\p{Uppercase}/u;
const LATER_UPPER = /^..*\p{Uppercase}/su;
const TWO_OR_MORE = /^../su;

function kindOf(text) {
  if (isWhite(text)) return text.startsWith("\n") ? "newlines" : "spaces";
  if (ALL_DECIMAL.test(text)) return "number";
  if (!ANY_ALPHANUMERIC.test(text)) return "marks";
  if (text.includes("'")) return "apostrophe";
  if (ANY_UPPER.test(text)) {
    if (TWO_OR_MORE.test(text) && !ANY_LOWER.test(text)) return "capitals";
    return FIRST_UPPER.test(text) && !LATER_UPPER.test(text) ? "Capital" : "mixed";
  }
  return ENDINGS.find((ending) => text.endsWith(ending) && longerThan(text, ending.length + 1)) ?? "word";
}

/** Whether a text has more than `length` characters. */
function longerThan(text, length) {
  return text.length > 2 * length || [...text].length > length;
}
