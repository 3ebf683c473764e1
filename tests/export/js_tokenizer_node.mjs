/**
 * Calls the page's tokenizers for js_tokenizer_test.py. A line of stdin is a call in JSON, a line of stdout its result:
 *   { make: name, args }      a new object, by the class or function of this name; the result is the object's number
 *   { call: name, args, on }  calls a method of an object, or a function
 *   { get: name, on }         a property of an object
 * An argument { uniform: [...] } is a Random with these numbers. On an error the result is { error: message }.
 */

import { createInterface } from "node:readline";

const page = new URL("../../lovecraft_jax/export/page/", import.meta.url);
const files = ["tokenizer.js", "cleaning.js", "pretokens.js", "word_classes.js", "speller.js"];
const names = Object.assign({}, ...(await Promise.all(files.map((file) => import(new URL(file, page))))));
names.map = (name, values) => values.map((value) => names[name](value));
const objects = [];

function toArgument(value) {
  if (!value?.uniform) return value;
  const numbers = value.uniform.values();
  return { next: () => numbers.next().value };
}

function answer({ make, call, get, on, args }) {
  const values = args?.map(toArgument);
  if (make) return objects.push(/^[A-Z]/.test(make) ? new names[make](...values) : names[make](...values)) - 1;
  const target = on === undefined ? names : objects[on];
  return get ? target[get] : target[call](...values);
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  let result;
  try {
    result = answer(JSON.parse(line));
  } catch (error) {
    result = { error: error.message };
  }
  const shown = JSON.stringify(result, (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value));
  process.stdout.write(`${shown ?? "null"}\n`);
}
