/** Reads safetensors files: an 8-byte length, a JSON header that says where each tensor is, and the tensors' bytes. */

const SCALE = ".scale"; // ends the name of the array that an int8 matrix of the same name is multiplied by

/**
 * A matrix or a vector, its values row by row.
 * @typedef {{ shape: number[], values: Float32Array }} Tensor
 */

/**
 * Returns what a file holds, its tensors as float32: those of float16 are converted, those of int8 multiplied by their
 * scales. Throws an Error where it has another type.
 * @param {ArrayBuffer} buffer
 * @returns {{ metadata: Object<string, string>, tensors: Object<string, Tensor> }}
 */
export function readSafetensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata = {}, ...entries } = header;
  const stored = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(entries)) {
    const bytes = buffer.slice(8 + length + begin, 8 + length + end); // a copy, so that it is aligned
    stored[name] = { shape, values: toFloat32(bytes, dtype, name) };
  }
  const tensors = {};
  for (const [name, tensor] of Object.entries(stored)) {
    if (name.endsWith(SCALE)) continue;
    const scale = stored[name + SCALE];
    if (scale) multiplyBy(tensor, scale);
    tensors[name] = tensor;
  }
  return { metadata, tensors };
}

function toFloat32(bytes, dtype, name) {
  if (dtype === "F32") return new Float32Array(bytes);
  if (dtype === "I8") return Float32Array.from(new Int8Array(bytes));
  if (dtype === "F16") return halvesToFloat32(new Uint16Array(bytes));
  throw new Error(`${name} has the type ${dtype}: expected F32, F16 or I8`);
}

/** Returns finite float16 numbers, given as their bits. */
function halvesToFloat32(halves) {
  const values = new Float32Array(halves.length);
  const bits = new Uint32Array(values.buffer);
  for (let n = 0; n < halves.length; n++) {
    // The bias of a float32's exponent is larger by 112; so its value, subnormal or not, is too small by that power.
    bits[n] = ((halves[n] & 0x8000) << 16) | ((halves[n] & 0x7fff) << 13);
    values[n] *= 2 ** 112;
  }
  return values;
}

/** Multiplies a matrix [R, C] by its scale, [1, C] or [R, 1]; R and C may be 1 too. */
function multiplyBy({ shape: [rows, columns], values }, { shape: [scaleRows, scaleColumns], values: scales }) {
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      values[row * columns + column] *= scales[(scaleRows > 1 ? row : 0) + (scaleColumns > 1 ? column : 0)];
    }
  }
}
