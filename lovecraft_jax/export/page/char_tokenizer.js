/** Characters as tokens. Mirrors lovecraft_jax/data/char_tokenizer.py. */

import { utf8Bytes } from "./characters.js";
import { REPLACEMENT_CHARACTER, UNKNOWN_ID } from "./encoded.js";

/** A token is a character: id 0 is unknown, then come the characters of the training text in code-point order. */
export class CharTokenizer {
  #chars;
  #ids;
  #unknownNats;

  /**
   * @param {{ chars: string }} saved
   * @param {import("./cleaning.js").Cleaning} cleaning
   */
  constructor(saved, cleaning) {
    this.level = "chars";
    this.cleaning = cleaning;
    this.#chars = [REPLACEMENT_CHARACTER, ...saved.chars];
    this.#ids = new Map(Array.from(saved.chars, (char, n) => [char, n + 1]));
    this.size = this.#chars.length;
    this.startId = this.#ids.get("\n") ?? UNKNOWN_ID;
    // An unknown character is one of the alphabet's, each as likely: a code that a decoder could read.
    this.#unknownNats = Math.log(cleaning.alphabetSize);
  }

  /** @returns {import("./encoded.js").Token[]} A cleaned text as tokens. */
  encode(text) {
    return Array.from(text, (char) => {
      const id = this.#ids.get(char) ?? UNKNOWN_ID;
      return { id, text: char, nats: id === UNKNOWN_ID ? this.#unknownNats : 0 };
    });
  }

  /** @returns {import("./encoded.js").Prompt} A cleaned text that is to be continued. */
  encodePrompt(text) {
    return { ids: text ? this.encode(text).map((token) => token.id) : [this.startId], cuts: [] };
  }

  /** @returns {string[]} The characters of a text that cannot be in a prompt, each once, in order. */
  unseen(text) {
    return [...new Set(text)].filter((char) => !this.#ids.has(char));
  }

  /** @returns {Uint8Array} The UTF-8 of a generated id. */
  generatedBytes(id) {
    return utf8Bytes(this.#chars[id]);
  }

  /** @returns {string} The text of an id, to be shown; "" for none. */
  tokenText(id) {
    return id === UNKNOWN_ID ? "" : this.#chars[id];
  }

  /** @returns {string} "": no id is a class of words. */
  describeClass() {
    return "";
  }
}
