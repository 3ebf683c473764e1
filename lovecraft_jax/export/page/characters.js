/** Characters of texts. A character is a code point, as in Python: those outside the basic plane are two units of a
 * JavaScript string. */

/** @returns {number[]} The code point of each character of a text. */
export function codePoints(text) {
  const points = [];
  for (let place = 0; place < text.length; ) {
    const point = text.codePointAt(place);
    points.push(point);
    place += point > 0xffff ? 2 : 1;
  }
  return points;
}

/** @returns {string[]} The code points of a text that are no characters, halves of a pair without the other half, each
 * once. */
export function loneSurrogates(text) {
  return [...new Set(text.match(/\p{Surrogate}/gu) ?? [])];
}

/** @returns {Uint8Array} A text as UTF-8. */
export function utf8Bytes(text) {
  return new TextEncoder().encode(text);
}
