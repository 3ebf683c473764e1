/** Matmuls of a vector with a matrix, where nearly all of the time goes. */

const AT_ONCE = 8; // columns

/**
 * A kernel [D, C], packed as [C / 8, D, 8] with zeros after the last column: so the inner loop reads it in order, holds
 * eight sums in registers and loads a value of x once for eight weights. Weights are float32, sums float64: with sums
 * in float32 the rounding of each takes longer than the addition.
 */
export class Kernel {
  /**
   * @param {number} rows - D
   * @param {number} columns - C
   * @param {Float32Array} values - They have row d, column c at `first` + d * `rowStep` + c * `columnStep`.
   */
  constructor(rows, columns, values, first, rowStep, columnStep) {
    this.rows = rows;
    const blocks = Math.ceil(columns / AT_ONCE);
    this.packed = new Float32Array(blocks * rows * AT_ONCE);
    this.sums = new Float64Array(blocks * AT_ONCE);
    this.result = this.sums.subarray(0, columns);
    let to = 0;
    for (let column = 0; column < columns; column += AT_ONCE) {
      const lanes = Math.min(AT_ONCE, columns - column);
      for (let row = 0; row < rows; row++, to += AT_ONCE) {
        const from = first + row * rowStep + column * columnStep;
        for (let lane = 0; lane < lanes; lane++) this.packed[to + lane] = values[from + lane * columnStep];
      }
    }
  }

  /** Returns the kernel of the rows `begin` to `end` of a matrix [R, C]. */
  static ofRows(values, columns, begin, end) {
    return new Kernel(end - begin, columns, values, begin * columns, columns, 1);
  }

  /** Returns the kernel [D, C] whose columns are the rows `begin` to `end` of a matrix [R, D], as of an embedding. */
  static ofTransposedRows(values, width, begin, end) {
    return new Kernel(width, end - begin, values, begin * width, 1, width);
  }

  /**
   * Returns x @ kernel in an array that the next call uses again.
   * @param {Float64Array} x - [D]
   * @returns {Float64Array} [C]
   */
  multiply(x) {
    const { packed, sums, rows } = this;
    let at = 0;
    for (let column = 0; column < sums.length; column += AT_ONCE) {
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      let s4 = 0;
      let s5 = 0;
      let s6 = 0;
      let s7 = 0;
      for (let row = 0; row < rows; row++, at += AT_ONCE) {
        const value = x[row];
        s0 += value * packed[at];
        s1 += value * packed[at + 1];
        s2 += value * packed[at + 2];
        s3 += value * packed[at + 3];
        s4 += value * packed[at + 4];
        s5 += value * packed[at + 5];
        s6 += value * packed[at + 6];
        s7 += value * packed[at + 7];
      }
      sums[column] = s0;
      sums[column + 1] = s1;
      sums[column + 2] = s2;
      sums[column + 3] = s3;
      sums[column + 4] = s4;
      sums[column + 5] = s5;
      sums[column + 6] = s6;
      sums[column + 7] = s7;
    }
    return this.result;
  }
}

/** Adds a vector to another of the same length, in place, and returns it. */
export function addTo(sum, vector) {
  for (let n = 0; n < sum.length; n++) sum[n] += vector[n];
  return sum;
}

/** Returns a matrix [R, C] with each column multiplied by its factor [C]. */
export function scaleColumns(values, factors) {
  return values.map((value, n) => value * factors[n % factors.length]);
}
