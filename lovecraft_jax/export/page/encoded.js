/** What tokenizers make of texts and prompts, as lovecraft_jax/data/encoded.py has it. */

/** Never generated; where a tokenizer has tokens that it does not know, it stands for them. */
export const UNKNOWN_ID = 0;

/** The id of a token of a text that is left out of the text's ids. */
export const LEFT_OUT = -1;

/** What is shown of a token that has no text. */
export const REPLACEMENT_CHARACTER = "\ufffd";

/**
 * A token of a text. The texts of all tokens, one after another, are the text.
 * @typedef {object} Token
 * @property {number} id - LEFT_OUT for a rare word that is left out of the ids.
 * @property {string} text - The characters that begin in the token.
 * @property {number} nats - What its spelling costs on top of its id.
 */

/**
 * A way to continue a prompt that may end within a word: keep its first `kept` ids, and restrict the next token to
 * those of which `allowed` [V] is 1. Their bytes begin with `begun`, the bytes of the rest of the prompt. `nats`: what
 * the prompt's last word costs on top of these ids.
 * @typedef {{ kept: number, begun: Uint8Array, allowed: Uint8Array, nats: number }} Cut
 */

/**
 * A text to continue: ids, at least one. `cuts`: where tokens are longer than characters, the ways in which its last
 * word may go on, from which the model chooses; none where `ids` is all that can be.
 * @typedef {{ ids: number[], cuts: Cut[] }} Prompt
 */
