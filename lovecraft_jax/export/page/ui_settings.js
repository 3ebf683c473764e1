/** How the page writes: the slider and the fields of "More settings", checked as they are typed. */

const FIELDS = ["topK", "topP", "length", "seed"];
const DEFAULTS = { topK: 0, topP: 1, length: 1000, seed: null, pace: 0 };
const MOODS = [
  [0, "always the likeliest"],
  [0.45, "careful"],
  [0.75, "balanced"],
  [1.05, "daring"],
  [Infinity, "wild"],
];
const THOUSANDS = /^\d{1,3}([ ,.'’\u00a0\u202f]\d{3})+$/; // with a mark between them

/**
 * `values`: { temperature, topK, topP, length, seed, pace }, always valid: a field's value counts once it has been
 * typed to its end, and while it is not valid the one before does. `seed` is null where each text shall have a new one.
 * `onchange` is called when one has been changed.
 */
export class Settings {
  constructor(byId, given) {
    this.byId = byId;
    this.bounds = given.bounds; // by field: { least, most, isWhole, isOptional }
    this.values = { ...DEFAULTS };
    this.onchange = () => {};
    byId("temperature").addEventListener("input", () => {
      this.readTemperature();
      this.onchange();
    });
    byId("pace").addEventListener("change", () => {
      this.values.pace = Number(byId("pace").value);
      this.onchange();
    });
    for (const name of FIELDS) {
      byId(name).addEventListener("input", () => this.check(name));
      byId(name).addEventListener("change", () => this.commit(name));
      byId(name).addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault(); // else it would press the main button
        this.commit(name);
      });
    }
    this.readTemperature();
    this.values.pace = Number(byId("pace").value);
    for (const name of FIELDS) this.commit(name);
  }

  readTemperature() {
    const slider = this.byId("temperature");
    const value = Number(slider.value);
    const mood = MOODS.find(([most]) => value <= most)[1];
    this.values.temperature = value;
    this.byId("temperature-value").textContent = value.toFixed(2);
    this.byId("temperature-mood").textContent = mood;
    slider.setAttribute("aria-valuetext", `${value.toFixed(2)}, ${mood}`);
  }

  /** Takes the value of a field, if it is valid. */
  commit(name) {
    const value = this.check(name);
    if (value === undefined) return;
    this.values[name] = value;
    this.onchange();
  }

  /** Returns the value of a field, undefined where it is not valid, which is explained beside it. */
  check(name) {
    const field = this.byId(name);
    const typed = field.value.trim();
    const value = parseNumber(typed, this.bounds[name]);
    const error = this.byId(`${name}-error`);
    field.setAttribute("aria-invalid", `${value === undefined}`);
    error.hidden = value !== undefined;
    error.textContent = value === undefined ? explain(typed, this.bounds[name], this.values[name]) : "";
    this.byId("settings-error").hidden = FIELDS.every((one) => this.byId(`${one}-error`).hidden);
    return value;
  }
}

/** Returns the number that was typed, null for none where it is optional, undefined for any other text. */
function parseNumber(typed, { least, most, isWhole, isOptional }) {
  if (!typed && isOptional) return null;
  let plain = isWhole ? typed : typed.replace(",", "."); // a comma is the decimal point of many languages
  if (isWhole && THOUSANDS.test(typed)) plain = typed.replace(/\D/g, "");
  if (!(isWhole ? /^\d+$/ : /^(\d+\.?\d*|\.\d+)$/).test(plain)) return undefined;
  return Number(plain) >= least && Number(plain) <= most ? Number(plain) : undefined;
}

function explain(typed, { least, most, isWhole, isOptional }, used) {
  const kind = isWhole ? "a whole number" : "a number";
  const range = `from ${least.toLocaleString("en")} to ${most.toLocaleString("en")}`;
  const instead = used === null ? "a new one is drawn" : `${used.toLocaleString("en")} is used`;
  const given = typed ? `“${typed.slice(0, 20)}” is not ${kind} ${range}` : `Expected ${kind} ${range}`;
  return `${given}${isOptional ? ", or nothing" : ""}; until then ${instead}.`;
}
