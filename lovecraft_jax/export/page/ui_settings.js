/** How the page writes: the slider and the fields of "More settings", checked as they are typed. */

const FIELDS = ["topK", "topP", "length", "seed"];
const DEFAULTS = { topK: 0, topP: 1, length: 1000, seed: null, pace: 0 };
const MOODS = [
  [0, "always the likeliest"],
  [0.45, "careful"],
  [0.75, "in between"],
  [1.05, "daring"],
  [Infinity, "wild"],
];

/**
 * `values`: { temperature, topK, topP, length, seed, pace }, always valid: while a field is not, its last valid value
 * counts. `seed` is null where each text shall have a new one. `onchange` is called when one has been changed.
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
      this.readPace();
      this.onchange();
    });
    for (const name of FIELDS) {
      byId(name).addEventListener("input", () => this.readField(name));
      byId(name).addEventListener("change", () => this.onchange()); // not before the whole number has been typed
      byId(name).addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault(); // else it would press the main button
        this.onchange();
      });
    }
    this.readTemperature();
    this.readPace();
    for (const name of FIELDS) this.readField(name);
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

  readPace() {
    this.values.pace = Number(this.byId("pace").value);
  }

  readField(name) {
    const field = this.byId(name);
    const typed = field.value.trim();
    const value = parseNumber(typed, this.bounds[name]);
    if (value !== undefined) this.values[name] = value;
    const error = this.byId(`${name}-error`);
    field.setAttribute("aria-invalid", `${value === undefined}`);
    error.hidden = value !== undefined;
    error.textContent = value === undefined ? explain(typed, this.bounds[name], this.values[name]) : "";
  }
}

/** Returns the number that was typed, null for none where it is optional, undefined where it is out of bounds or none. */
function parseNumber(typed, { least, most, isWhole, isOptional }) {
  if (!typed && isOptional) return null;
  const plain = isWhole ? typed : typed.replace(",", "."); // a comma is the decimal point of many languages
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
