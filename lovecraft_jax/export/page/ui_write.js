/** The part "Write": the prompt, the buttons and the text that is written. */

import { counted, showDropped } from "./ui_text.js";

const SEEDS = 2 ** 32;
const GO_ON_AT = 0.6; // of the window's height: where a text goes on, at most

/**
 * Its main button writes, pauses and goes on, as its label says; with another prompt than that of the text it writes
 * anew. That under the text pauses it and goes on with it, whatever the prompt is. The text before can be brought back.
 */
export class WriteView {
  constructor(byId, given, settings, send) {
    Object.assign(this, { byId, given, settings, send });
    this.lastId = 0;
    this.story = null; // the text that is shown
    this.before = null; // the one that it took the place of
    const on = (id, event, listener) => byId(id).addEventListener(event, listener);
    on("write-form", "submit", (event) => {
      event.preventDefault();
      this.pressMain();
    });
    on("go", "click", (event) => {
      if (event.detail > 1) event.preventDefault(); // the second press of a double click would pause
    });
    on("prompt", "keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.pressMain();
    });
    on("prompt", "input", () => this.showPhase());
    on("go-on", "click", () => this.pressGoOn());
    on("start-over", "click", () => this.start(this.asked()));
    on("again", "click", () => this.start(this.story.asked, this.story.prompt));
    on("bring-back", "click", () => this.bringBack());
    byId("prompt").setSelectionRange(given.mostPrompt, given.mostPrompt);
    settings.onchange = () => {
      if (this.story) this.send({ kind: "set", ...this.asked(this.story.asked.sampling.seed) });
      this.showPhase();
    };
    this.showPhase();
  }

  receive(message) {
    const story = [this.story, this.before].find((one) => one?.id === message.id);
    if (!story) return;
    if (message.kind === "begun") {
      story.given = message.prompt;
      if (story !== this.story) return;
      showDropped(this.byId("dropped"), message.dropped);
      this.show();
      return;
    }
    story.milliseconds += message.milliseconds;
    story.count += Array.from(message.text).length;
    story.text += message.text;
    if (story !== this.story) return;
    this.pending += message.text;
    story.isDone = message.isDone;
    if (this.isFrameAsked) return;
    this.isFrameAsked = true;
    requestAnimationFrame(() => this.showPending());
  }

  /** The prompt, without what the model does not know, and what was written after it. */
  get text() {
    return this.story.given + this.story.text;
  }

  /** Shows that nothing is written any more, after a failure. */
  stop() {
    if (this.story?.phase === "writing") this.enter("paused", "Stopped.");
  }

  pressMain() {
    if (this.story?.phase === "writing" || this.continues) this.pressGoOn();
    else this.start(this.asked());
  }

  pressGoOn() {
    if (this.story.phase === "writing") {
      this.send({ kind: "pause" });
      this.enter("paused", this.pausedAfter);
      return;
    }
    this.send({ kind: "go on" });
    this.enter("writing", "Writing …");
    const below = this.lastLine.getBoundingClientRect().bottom - GO_ON_AT * window.innerHeight;
    if (below > 0) window.scrollBy(0, below); // where what is new appears
  }

  /** Writes a new text, as it is `asked`. */
  start(asked, prompt = this.byId("prompt").value) {
    if (this.story) this.before = this.story;
    this.lastId += 1;
    this.story = { id: this.lastId, prompt, asked, given: "", text: "", count: 0, milliseconds: 0, isDone: false };
    this.byId("prompt").value = prompt;
    this.show();
    this.send({ kind: "write", id: this.lastId, prompt, ...asked });
    this.enter("writing", "Writing …");
    this.byId("written").scrollIntoView({ block: "nearest" });
  }

  /** Shows the text before again; then this one is the text before. */
  bringBack() {
    if (this.story.phase === "writing") this.enter("paused", "");
    [this.story, this.before] = [this.before, this.story];
    this.send({ kind: "bring back" });
    this.byId("prompt").value = this.story.prompt;
    this.show();
    this.enter(this.story.phase === "writing" ? "paused" : this.story.phase, this.pausedAfter);
  }

  get continues() {
    return this.story !== null && this.byId("prompt").value === this.story.prompt;
  }

  get lastLine() {
    return this.byId("written").lastElementChild;
  }

  get pausedAfter() {
    return `Paused after ${counted(this.story.count)}.`;
  }

  /** How fast the model was, where it wrote as fast as it can. */
  get rate() {
    if (this.settings.values.pace) return "";
    const perSecond = Math.round((1000 * this.story.count) / Math.max(1, this.story.milliseconds));
    return `, ${perSecond.toLocaleString("en")} a second`;
  }

  /** Returns what the settings ask for, with a seed, by default theirs. */
  asked(seed = this.settings.values.seed ?? Math.floor(Math.random() * SEEDS)) {
    const { temperature, topK, topP, length, pace } = this.settings.values;
    return { sampling: { temperature, topK, topP, seed }, length, pace };
  }

  /** Shows the whole text. */
  show() {
    this.pending = "";
    this.paragraphs = new Paragraphs(this.byId("written"), this.story.given);
    this.paragraphs.append(this.story.text);
  }

  showPending() {
    this.isFrameAsked = false;
    const isAtEnd = this.lastLine.getBoundingClientRect().bottom < window.innerHeight;
    this.paragraphs.append(this.pending);
    this.pending = "";
    const { story } = this;
    if (this.settings.values.pace && isAtEnd) this.lastLine.scrollIntoView({ block: "nearest" });
    if (story.phase === "paused") this.byId("write-status").textContent = this.pausedAfter;
    if (story.isDone) this.enter("done", `Wrote ${counted(story.count)}${this.rate}; press Go on for more.`);
    story.isDone = false;
  }

  enter(phase, status) {
    this.story.phase = phase;
    this.byId("write-status").textContent = status;
    this.showPhase();
  }

  showPhase() {
    const { seed } = this.settings.values;
    const isFixed = seed !== null;
    this.byId("seed-note").textContent = isFixed ? `Text number ${seed} is set: it writes the same text again.` : "";
    const isWriting = this.story?.phase === "writing";
    this.byId("go").textContent = isWriting ? "Pause" : this.continues ? "Go on" : "Write";
    this.byId("too-long-prompt").hidden = this.byId("prompt").value.length < this.given.mostPrompt;
    for (const id of ["bar", "after", "again"]) this.byId(id).hidden = this.story === null;
    this.byId("bring-back").hidden = this.before === null;
    this.byId("written").classList.toggle("writing", isWriting);
    if (!this.story) return;
    this.byId("go-on").textContent = isWriting ? "Pause" : "Go on";
    this.byId("used-seed").textContent = `This text has the number ${this.story.asked.sampling.seed}.`;
  }
}

/** A text as paragraphs of an element, one a line, to which more is appended. */
class Paragraphs {
  constructor(element, prompt) {
    this.element = element;
    element.replaceChildren();
    this.begin();
    this.append(prompt, "prompt");
    this.node = null;
  }

  begin() {
    this.element.append(document.createElement("p"));
    this.node = null;
  }

  append(text, className = "") {
    text.split("\n").forEach((line, n) => {
      if (n) this.begin();
      if (!line) return;
      if (this.node) return this.node.appendData(line);
      this.node = document.createTextNode(line);
      if (!className) return this.element.lastChild.append(this.node);
      const part = document.createElement("span");
      part.className = className;
      part.append(this.node);
      this.element.lastChild.append(part);
    });
  }
}
