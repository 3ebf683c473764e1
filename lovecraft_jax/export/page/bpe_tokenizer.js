/**
 * Byte-pair encoding (Sennrich et al. 2016) over UTF-8 bytes: tokens are frequent pieces of pretokens. Applies the
 * merges of the JSON of the `tokenizers` library, as lovecraft_jax/data/bpe_tokenizer.py does with the library.
 */

import { loneSurrogates, utf8Bytes } from "./characters.js";
import { splitPretokens, splitPrompt } from "./pretokens.js";

/** The token of UNKNOWN_ID, which no text has. */
const UNUSED = "<unused>";
/** How many different pretokens are kept with their ids, which bounds memory. */
const KEPT_PRETOKENS = 1 << 16;

/** A token is a sequence of bytes, which the library's JSON writes as a string with one character for each byte. */
export class BpeTokenizer {
  #tokens; // the string of each id [V]
  #lengths; // the characters that begin in each id: its bytes but for those that continue a character [V]
  #idOfByte; // [256], -1 for a byte that no text can have
  #merges = new Map(); // left id * V + right id: the rank of the merge
  #merged; // the id that each merge gives, by rank
  #known = new Map(); // pretoken: its ids
  #byteOf = new Map(byteCharacters().map((char, byte) => [char, byte]));

  /**
   * @param {{ tokenizer: { model: { vocab: Object<string, number>, merges: (string | string[])[] } } }} saved
   * @param {import("./cleaning.js").Cleaning} cleaning
   */
  constructor(saved, cleaning) {
    this.level = "bpe";
    this.cleaning = cleaning;
    const { vocab, merges } = saved.tokenizer.model;
    const ids = new Map(Object.entries(vocab));
    this.size = ids.size;
    this.#tokens = new Array(this.size);
    for (const [token, id] of ids) this.#tokens[id] = token === UNUSED ? "" : token;
    this.#lengths = this.#tokens.map((token) => this.#bytes(token).filter((byte) => (byte & 0xc0) !== 0x80).length);
    this.#idOfByte = byteCharacters().map((char) => ids.get(char) ?? -1);
    this.#merged = merges.map((merge, rank) => {
      const [left, right] = Array.isArray(merge) ? merge : merge.split(" "); // the library wrote strings before 0.20
      this.#merges.set(ids.get(left) * this.size + ids.get(right), rank);
      return ids.get(left + right);
    });
    this.startId = this.#idsOf("\n")[0];
  }

  /** @returns {import("./encoded.js").Token[]} A cleaned text as tokens. */
  encode(text) {
    return splitPretokens(text).flatMap((pretoken) => {
      let place = 0;
      return this.#idsOf(pretoken).map((id) => {
        const begin = place;
        for (let n = 0; n < this.#lengths[id]; n++) place += pretoken.codePointAt(place) > 0xffff ? 2 : 1;
        return { id, text: pretoken.slice(begin, place), nats: 0 };
      });
    });
  }

  /** @returns {import("./encoded.js").Prompt} A cleaned text that is to be continued. */
  encodePrompt(text) {
    const pieces = splitPrompt(text).map((pretoken) => this.#idsOf(pretoken));
    const ids = [this.startId, ...pieces.flat()];
    const cuts = [];
    for (let kept = ids.length - (pieces.at(-1)?.length ?? 0); kept < ids.length; kept++) {
      const begun = ids.slice(kept).map((id) => this.#tokens[id]).join("");
      const allowed = Uint8Array.from(this.#tokens, (token) => token.startsWith(begun));
      if (allowed.includes(1)) cuts.push({ kept, begun: this.#bytes(begun), allowed, nats: 0 });
    }
    return { ids, cuts };
  }

  /** @returns {string[]} The parts of a text that cannot be in a prompt, each once, in order. */
  unseen(text) {
    return loneSurrogates(text);
  }

  /** @returns {Uint8Array} The bytes of a generated id, which may begin and end within a character. */
  generatedBytes(id) {
    return this.#bytes(this.#tokens[id]);
  }

  /** @returns {string} The text of an id, to be shown, with replacement characters for parts of characters. */
  tokenText(id) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.generatedBytes(id));
  }

  /** @returns {string} "": no id is a class of words. */
  describeClass() {
    return "";
  }

  #bytes(token) {
    return Uint8Array.from(token, (byteCharacter) => this.#byteOf.get(byteCharacter));
  }

  /** @returns {number[]} The ids of a pretoken. */
  #idsOf(pretoken) {
    let ids = this.#known.get(pretoken);
    if (!ids) {
      // What is one pretoken at the end of a prompt, as "don'", can be two in a text.
      ids = splitPretokens(pretoken).flatMap((part) => this.#merge(part));
      if (this.#known.size >= KEPT_PRETOKENS) this.#known.clear();
      this.#known.set(pretoken, ids);
    }
    return ids;
  }

  /** @returns {number[]} The ids of a pretoken: those of its bytes, of which the neighbours whose merge has the lowest
   * rank, and of these the first, become one id until no neighbours have a merge. */
  #merge(pretoken) {
    const ids = Array.from(utf8Bytes(pretoken), (byte) => this.#idOfByte[byte]).filter((id) => id >= 0);
    const next = ids.map((_, place) => place + 1);
    const previous = ids.map((_, place) => place - 1);
    const candidates = new SmallestFirst();
    const rankAt = (place) => {
      const right = next[place];
      return right < ids.length ? this.#merges.get(ids[place] * this.size + ids[right]) : undefined;
    };
    const propose = (place) => {
      const rank = rankAt(place);
      if (rank !== undefined) candidates.add(rank * 2 ** 32 + place);
    };
    for (let place = 0; place < ids.length - 1; place++) propose(place);
    while (candidates.size) {
      const candidate = candidates.take();
      const place = candidate % 2 ** 32;
      const rank = (candidate - place) / 2 ** 32;
      if (ids[place] < 0 || rankAt(place) !== rank) continue; // one of the two has been merged meanwhile
      const right = next[place];
      ids[place] = this.#merged[rank];
      ids[right] = -1;
      next[place] = next[right];
      if (next[place] < ids.length) previous[next[place]] = place;
      if (previous[place] >= 0) propose(previous[place]);
      propose(place);
    }
    return ids.filter((id) => id >= 0);
  }
}

/** Numbers, of which the smallest is taken first: a binary heap. */
class SmallestFirst {
  #heap = [];

  get size() {
    return this.#heap.length;
  }

  add(number) {
    const heap = this.#heap;
    let place = heap.push(number) - 1;
    for (let above; place && heap[(above = (place - 1) >> 1)] > number; place = above) heap[place] = heap[above];
    heap[place] = number;
  }

  take() {
    const heap = this.#heap;
    const smallest = heap[0];
    const last = heap.pop();
    let place = 0;
    for (let below = 1; below < heap.length; below = 2 * place + 1) {
      if (below + 1 < heap.length && heap[below + 1] < heap[below]) below++;
      if (heap[below] >= last) break;
      heap[place] = heap[below];
      place = below;
    }
    if (heap.length) heap[place] = last;
    return smallest;
  }
}

/** @returns {string[]} The character that stands for each byte in the library's JSON, as in GPT-2: itself if it can be
 * seen [256]. */
function byteCharacters() {
  const isVisible = (byte) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  let others = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isVisible(byte) ? byte : others++));
}
