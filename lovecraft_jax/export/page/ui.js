/** The page's behaviour: connects its two parts, in ui_write.js and ui_read.js, with the worker. */

import { ReadView } from "./ui_read.js";
import { Settings } from "./ui_settings.js";
import { WriteView } from "./ui_write.js";

const COPY = "Copy the text";
const COPIED_MS = 4000; // for which the button says that it has copied

/** Starts the page. `serve(port)`: answers a port's messages, as the worker does, where no worker can be started. */
export function startPage(page, serve) {
  const byId = (id) => page.getElementById(id);
  const given = JSON.parse(byId("given").textContent);
  const settings = new Settings(byId, given);
  const port = connect(byId("program").textContent, serve, receive);
  const written = new WriteView(byId, given, settings, port.send);
  const reading = new ReadView(byId, given, port.send);

  function receive(message) {
    if (message.kind === "begun" || message.kind === "text") written.receive(message);
    else if (message.kind === "tokens" || message.kind === "read") reading.receive(message);
    else if (message.kind === "failed") fail(message.message);
  }

  function fail(reason) {
    if (!byId("failure").hidden) return; // what follows a failure says less
    byId("failure").hidden = false;
    byId("failure").textContent = `Something went wrong: ${reason}. Reload the page to try again.`;
    written.stop();
  }

  let copiedTimer = 0;
  byId("copy").addEventListener("click", async () => {
    const isCopied = await copyText(page, written.text);
    byId("copy-status").textContent = isCopied ? "Copied." : "This browser lets no page copy: select the text.";
    byId("copy-status").className = isCopied ? "unseen" : "hint";
    byId("copy").textContent = isCopied ? "Copied." : COPY;
    clearTimeout(copiedTimer);
    copiedTimer = setTimeout(() => {
      byId("copy-status").textContent = "";
      byId("copy").textContent = COPY;
    }, COPIED_MS);
  });
  byId("to-read").addEventListener("click", () => reading.show(written.text));

  port.send({ kind: "load", weights: byId("weights").textContent.trim() });
  byId("weights").remove();
  reading.read();
}

/**
 * Starts a worker that runs `source`. Returns { send }; its messages go to `receive`. Where a browser allows no worker,
 * the same program runs in the page itself, which it does not block for longer than a slice.
 */
function connect(source, serve, receive) {
  let port = null;
  let unanswered = []; // what was sent before it is known whether the worker starts

  function listen(other) {
    port = other;
    port.onmessage = ({ data }) => {
      unanswered = null;
      receive(data);
    };
    for (const message of unanswered) port.postMessage(message);
  }

  function listenHere() {
    const channel = new MessageChannel();
    serve(channel.port2);
    listen(channel.port1);
  }

  try {
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    worker.onerror = (event) => {
      event.preventDefault();
      if (unanswered) listenHere();
      else receive({ kind: "failed", message: event.message });
    };
    listen(worker);
  } catch {
    listenHere();
  }
  return {
    send(message) {
      unanswered?.push(message);
      port.postMessage(message);
    },
  };
}

/** Copies a text to the clipboard; returns whether that was allowed. */
async function copyText(page, text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const before = page.activeElement;
    const area = page.createElement("textarea"); // the way of browsers that give files no clipboard
    area.value = text;
    area.readOnly = true;
    area.className = "unseen";
    page.body.append(area);
    area.select();
    const isCopied = page.execCommand("copy");
    area.remove();
    before?.focus();
    return isCopied;
  }
}
