/** Texts that both parts of the page show. */

const MOST_CHARACTERS = 20; // that are named one by one

/** Says in `element` which characters have been left out; nothing where there are none. */
export function showDropped(element, characters) {
  const shown = characters
    .slice(0, MOST_CHARACTERS)
    .map((char) => `“${/[\p{C}\p{Z}]/u.test(char) ? codePoint(char) : char}”`);
  const more = characters.length - shown.length;
  const listed = `${shown.join(" ")}${more ? ` and ${more} more` : ""}`;
  element.hidden = !characters.length;
  element.textContent = characters.length ? `Left out, as the model has never met it: ${listed}.` : "";
}

/** Returns a number of characters in words. */
export function counted(n) {
  return `${n.toLocaleString("en")} ${n === 1 ? "character" : "characters"}`;
}

/** Returns the beginning of a text, of at most `most` units, as `maxlength` counts, without half of a character. */
export function cutTo(text, most) {
  const isWithin = /[\ud800-\udbff]/.test(text[most - 1] ?? "") && /[\udc00-\udfff]/.test(text[most] ?? "");
  return text.slice(0, most - (isWithin ? 1 : 0));
}

function codePoint(char) {
  return `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}
