/** The whole program's start: in the page it starts the page, in the worker, which gets the same source, the worker. */

import { startPage } from "./ui.js";
import { serve } from "./worker.js";

if (typeof document === "undefined") {
  serve(self);
} else {
  startPage(document, serve);
}
