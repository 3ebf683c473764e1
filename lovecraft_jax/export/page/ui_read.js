/** The part "Read": a text that is typed, coloured by what the model thinks of it, and what it expects next. */

import { counted, cutTo, showDropped } from "./ui_text.js";

const TYPING_MS = 120; // without a key, after which the text is read
const QUIET_MS = 1500; // after which a screen reader says the token before the cursor and the score
const MOST_WORDS = 3;
const LEAST_COMPARED = 20; // characters of a text whose score says something
const SAME_SCORE = 0.05; // a smaller difference is none

export class ReadView {
  constructor(byId, given, send) {
    Object.assign(this, { byId, given, send });
    this.id = 0;
    this.said = ""; // the score, for a screen reader
    this.tokens = []; // of what has been read: [{ text, bits }]
    this.offered = []; // the texts that the buttons insert
    this.offeredId = 0; // of the reading that they belong to
    this.pointed = null; // the index of the token that was pressed, before which the cursor is then
    this.here = null; // that token, or the one before the cursor, as an element
    this.area = byId("reading");
    this.area.addEventListener("input", () => this.readSoon());
    document.addEventListener("selectionchange", () => this.moved());
    this.area.addEventListener("keyup", () => this.moved()); // for browsers that do not report a field's selection
    this.area.addEventListener("pointerup", () => this.moved());
    byId("coloured").addEventListener("click", ({ target }) => {
      const token = target.closest("[title]");
      if (token) this.point(Array.prototype.indexOf.call(byId("coloured").childNodes, token));
    });
    byId("coloured").addEventListener("keydown", (event) => {
      const here = this.pointed ?? Array.prototype.indexOf.call(byId("coloured").childNodes, this.here);
      const last = this.tokens.length - 1;
      const to = {
        ArrowLeft: () => here - 1,
        ArrowRight: () => here + 1,
        ArrowUp: () => this.onNextLine(here, -1),
        ArrowDown: () => this.onNextLine(here, 1),
        Home: () => 0,
        End: () => last,
      }[event.key];
      if (!to || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      this.point(Math.max(0, Math.min(to(), last)));
    });
    byId("bring-back-reading").addEventListener("click", () => this.show(this.before));
    this.area.setSelectionRange(this.area.value.length, this.area.value.length);
    this.buttons = Array.from(byId("continuations").children);
    this.buttons.forEach((button, n) => button.addEventListener("click", () => this.insert(n)));
  }

  /** Returns the token above (direction -1) or below (1) another one: the nearest on the next line that has one. */
  onNextLine(here, direction) {
    const boxes = Array.from(this.byId("coloured").childNodes, (span) => span.getBoundingClientRect());
    const { top, left, height } = boxes[here];
    let nearest = here;
    for (let n = here + direction; n >= 0 && n < boxes.length; n += direction) {
      const onLine = boxes[nearest];
      if ((boxes[n].top - top) * direction < height / 2) continue; // still on the same line
      if (nearest !== here && (boxes[n].top - onLine.top) * direction > height / 2) break; // beyond the next line
      if (nearest === here || Math.abs(boxes[n].left - left) < Math.abs(onLine.left - left)) nearest = n;
    }
    return nearest;
  }

  /** Reads a text that comes from elsewhere, and goes there. */
  show(text) {
    this.before = this.area.value;
    this.byId("bring-back-reading").hidden = !this.before;
    this.area.select();
    this.type(cutTo(text, this.area.maxLength));
    this.area.setSelectionRange(this.area.value.length, this.area.value.length);
    this.read();
    this.byId("read-title").focus({ preventScroll: true });
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.byId("read").scrollIntoView({ behavior: isStill ? "auto" : "smooth" });
  }

  readSoon() {
    this.id += 1; // what is offered belongs to the text before
    this.pointed = null;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.read(), TYPING_MS);
  }

  moved() {
    if (document.activeElement === this.area && this.area.selectionEnd !== this.cursor) this.readSoon();
  }

  read() {
    clearTimeout(this.timer);
    this.pointed = null;
    this.cursor = this.area.selectionEnd;
    this.id += 1;
    this.send({ kind: "read", id: this.id, text: this.area.value, cursor: this.cursor });
    const { length } = this.area.value;
    this.byId("too-long").hidden = length < this.area.maxLength;
  }

  receive(message) {
    if (message.kind === "tokens") {
      this.replaceTokens(message.from, message.tokens);
      this.showScore(message.share);
    } else if (message.id === this.id) {
      showDropped(this.byId("dropped-reading"), message.dropped);
      this.markCursor(message.at);
      this.offer(message.continuations);
      this.offeredId = message.id;
    }
  }

  replaceTokens(from, tokens) {
    const coloured = this.byId("coloured");
    while (coloured.childNodes.length > from) coloured.lastChild.remove();
    coloured.append(...tokens.map((token) => this.colour(token)));
    this.tokens.splice(from, Infinity, ...tokens);
  }

  /** Returns the element of a token. Its class is its level of surprisal; a space before a word has no colour. */
  colour({ text, bits }) {
    const element = document.createElement("span");
    const coloured = text.trim() ? text.trimStart() : text;
    const level = `s${this.given.levels.filter((least) => bits >= least).length}`;
    element.title = describe(text, bits);
    if (coloured === text) {
      element.textContent = text;
      element.className = level;
    } else {
      const word = document.createElement("span");
      word.textContent = coloured;
      word.className = level;
      element.append(text.slice(0, -coloured.length), word);
    }
    if (text.includes("\n")) element.classList.add("line-end");
    return element;
  }

  showScore(share) {
    const characters = this.tokens.reduce((sum, { text }) => sum + Array.from(text).length, 0);
    const bits = this.tokens.reduce((sum, token) => sum + token.bits, 0);
    const score = characters ? (bits / characters).toFixed(2) : "–";
    this.byId("score").textContent = score;
    const progress = share < 1 ? ` (${Math.round(100 * share)} % read)` : "";
    this.byId("score-of").textContent = characters ? `bits, over ${counted(characters)}${progress}` : "";
    this.compare(characters >= LEAST_COMPARED && share === 1 ? bits / characters : null);
    const words = mostSurprising(this.tokens, MOST_WORDS);
    const listed = words.map(({ word, bits }) => `${word} (${bits.toFixed(0)} bits)`).join(", ");
    this.byId("surprises").textContent = listed || "–";
    this.said = characters ? `${score} bits per character.` : "";
    this.saySoon();
  }

  /** Says whether a text is stranger than one that the model knows the kind of. */
  compare(score) {
    const own = this.given.ownScore;
    if (own === null) return;
    const isSame = Math.abs(score - own) < SAME_SCORE;
    const verdict = isSame ? "about as strange" : score > own ? "stranger" : "less strange";
    this.byId("verdict").textContent = score === null ? "" : `; this text is ${verdict}`;
  }

  /** Has a screen reader say what has been read, once nothing has changed for a while. */
  saySoon() {
    clearTimeout(this.sayTimer);
    this.sayTimer = setTimeout(() => {
      this.byId("read-status").textContent = `${this.byId("detail").textContent} ${this.said}`.trim();
    }, QUIET_MS);
  }

  /** Marks the token that was pressed, or the last of those before the cursor, and describes it. */
  markCursor(count) {
    this.here?.classList.remove("here");
    this.here = this.byId("coloured").childNodes[this.pointed ?? count - 1] ?? null;
    this.here?.classList.add("here");
    const panel = this.byId("coloured");
    if (this.here) panel.scrollTop = this.here.offsetTop - panel.offsetTop - panel.clientHeight / 2;
    const where = this.pointed === null ? "Before the cursor" : "Selected";
    this.byId("detail").textContent = this.here ? `${where}: ${this.here.title}.` : "";
    this.saySoon();
  }

  /** Puts the cursor before a token, so that what is offered is what else could have come there. */
  point(index) {
    const text = this.tokens.map((token) => token.text).join("");
    const { length } = this.tokens.slice(0, index).map((token) => token.text).join("");
    if (text.length === this.area.value.length) this.area.setSelectionRange(length, length); // else it was cleaned
    this.read();
    this.pointed = index;
  }

  offer(continuations) {
    const whole = continuations.filter(({ text, isClass }) => !isClass && !text.includes("\ufffd"));
    const texts = whole.slice(0, this.buttons.length);
    this.offered = texts.map(({ text }) => text);
    this.buttons.forEach((button, n) => {
      button.hidden = n >= texts.length;
      if (button.hidden) return;
      const [text, share] = button.querySelectorAll(".text, .share");
      text.textContent = named(texts[n].text);
      text.classList.toggle("named", !texts[n].text.trim());
      share.textContent = percent(texts[n].probability);
    });
    const classes = continuations.filter(({ isClass }) => isClass);
    const listed = classes.map(({ text, probability }) => `${text} (${percent(probability)})`).join(", ");
    this.byId("classes").textContent = listed ? `Or a rarer word, spelled letter by letter: ${listed}.` : "";
  }

  /**
   * Puts what a button offers at the cursor, after what is selected, and the cursor after it, as far as there is room.
   * Until it is known what comes next there, a press does nothing.
   */
  insert(n) {
    if (this.offeredId !== this.id) return;
    const { selectionEnd: end, value, maxLength } = this.area;
    this.area.setSelectionRange(end, end);
    this.type(cutTo(this.offered[n], maxLength - value.length));
    this.read();
  }

  /** Puts a text in place of what is selected, so that it can be undone as what is typed; the focus stays. */
  type(text) {
    const { selectionStart: start, selectionEnd: end } = this.area;
    const before = document.activeElement;
    this.area.focus({ preventScroll: true });
    const isDone = text && document.execCommand("insertText", false, text);
    if (!isDone) this.area.setRangeText(text, start, end, "end");
    before?.focus({ preventScroll: true });
  }
}

/** Returns the words of tokens with the most bits, [{ word, bits }], each once; white space costs no word anything. */
function mostSurprising(tokens, count) {
  const words = [];
  let isWithin = false;
  for (const { text, bits } of tokens) {
    if (!text.trim()) {
      isWithin = false;
      continue;
    }
    if (!isWithin || /^\s/.test(text)) words.push({ word: "", bits: 0 });
    const last = words[words.length - 1];
    last.word += text.trim();
    last.bits += bits;
    isWithin = !/\s$/.test(text);
  }
  const best = new Map();
  for (const { word, bits } of words) {
    const plain = word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "");
    if (plain && bits > (best.get(plain) ?? 0)) best.set(plain, bits);
  }
  const sorted = Array.from(best, ([word, bits]) => ({ word, bits })).sort((one, other) => other.bits - one.bits);
  return sorted.slice(0, count);
}

function describe(text, bits) {
  const times = 2 ** bits;
  const rounded = Number(times.toPrecision(times < 10 ? 2 : 3)).toLocaleString("en");
  const chance = times < 1e6 ? `1 chance in ${rounded}` : "less than 1 chance in a million";
  return `“${named(text.trim() || text)}” had ${chance}, ${bits.toFixed(1)} bits`;
}

/** Returns a text with names for the white space that nobody would see. */
function named(text) {
  if (text === " ") return "space";
  if (/^\n+$/.test(text)) return text.length > 1 ? "new paragraph" : "new line";
  return text.replaceAll("\n", "↵");
}

function percent(share) {
  if (share < 0.01) return "<1 %";
  return share < 0.995 ? `${(100 * share).toFixed(0)} %` : ">99 %";
}
