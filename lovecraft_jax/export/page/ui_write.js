/** The part "Write": the prompt, the buttons and the text that is written. */

import { counted, showDropped } from "./ui_text.js";

const SEEDS = 2 ** 32;

/**
 * Its main button writes, pauses and goes on, as its label says. After a pause or at the end a prompt that was changed
 * makes it write anew.
 */
export class WriteView {
  constructor(byId, given, settings, send) {
    Object.assign(this, { byId, given, settings, send });
    this.id = 0; // of the text that is written; messages about earlier ones are ignored
    this.phase = "empty"; // "writing", "paused", "done"
    this.text = ""; // the prompt and what was written after it
    this.pending = ""; // what the next frame shows
    this.byId("write-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.pressMain();
    });
    this.byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.pressMain();
    });
    this.byId("prompt").addEventListener("input", () => this.showPhase());
    this.byId("start-over").addEventListener("click", () => this.start());
    settings.onchange = () => this.send({ kind: "set", ...this.asked(this.seed) });
    this.showPhase();
  }

  receive(message) {
    if (message.id !== this.id) return;
    if (message.kind === "begun") {
      showDropped(this.byId("dropped"), message.dropped);
      this.paragraphs = new Paragraphs(this.byId("written"), message.prompt);
      this.text = message.prompt;
      return;
    }
    this.milliseconds += message.milliseconds;
    this.count += Array.from(message.text).length;
    this.text += message.text;
    this.pending += message.text;
    this.isDone = message.isDone;
    if (this.isFrameAsked) return;
    this.isFrameAsked = true;
    requestAnimationFrame(() => this.showPending());
  }

  /** Shows that nothing is written any more, after a failure. */
  stop() {
    if (this.phase === "writing") this.enter("paused", "Stopped.");
  }

  pressMain() {
    if (this.phase === "writing") {
      this.send({ kind: "pause" });
      this.enter("paused", this.pausedAfter);
    } else if (this.continues) {
      this.send({ kind: "go on" });
      this.enter("writing", "Writing …");
    } else {
      this.start();
    }
  }

  start() {
    this.id += 1;
    this.prompt = this.byId("prompt").value;
    this.seed = this.settings.values.seed ?? Math.floor(Math.random() * SEEDS);
    Object.assign(this, { text: "", pending: "", count: 0, milliseconds: 0, isDone: false });
    this.byId("written").replaceChildren();
    this.byId("used-seed").textContent = `The seed of this text is ${this.seed}.`;
    this.send({ kind: "write", id: this.id, prompt: this.prompt, ...this.asked(this.seed) });
    this.enter("writing", "Writing …");
    this.byId("written").scrollIntoView({ block: "nearest" });
  }

  get continues() {
    return this.phase !== "empty" && this.byId("prompt").value === this.prompt;
  }

  get pausedAfter() {
    return `Paused after ${counted(this.count)}.`;
  }

  /** How fast the model was, where it wrote as fast as it can. */
  get rate() {
    if (this.settings.values.pace) return "";
    const perSecond = Math.round((1000 * this.count) / Math.max(1, this.milliseconds));
    return `, ${perSecond.toLocaleString("en")} a second`;
  }

  asked(seed) {
    const { temperature, topK, topP, length, pace } = this.settings.values;
    return { sampling: { temperature, topK, topP, seed }, length, pace };
  }

  showPending() {
    this.isFrameAsked = false;
    this.paragraphs.append(this.pending);
    this.pending = "";
    if (this.phase === "paused") this.byId("write-status").textContent = this.pausedAfter;
    if (this.isDone) {
      this.enter("done", `Wrote ${counted(this.count)}${this.rate}.`);
    }
    this.isDone = false;
  }

  enter(phase, status) {
    this.phase = phase;
    this.byId("write-status").textContent = status;
    this.showPhase();
  }

  showPhase() {
    const isWriting = this.phase === "writing";
    this.byId("go").textContent = isWriting ? "Pause" : this.continues ? "Go on" : "Write";
    this.byId("written").classList.toggle("writing", isWriting);
    for (const id of ["start-over", "after"]) this.byId(id).hidden = this.phase === "empty";
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
