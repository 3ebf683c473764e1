/** The activation and the norms of gates. */

const EPSILON = 1e-5; // added to a variance or a mean square

export function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

/**
 * Normalises part of an array in place, by its own moments: to mean 0 and variance 1, or without `isCentred` to a mean
 * square of 1; then multiplies it by the scales at the same indices.
 */
export function normalise(values, begin, end, scales, isCentred) {
  const size = end - begin;
  let mean = 0;
  if (isCentred) {
    for (let n = begin; n < end; n++) mean += values[n];
    mean /= size;
  }
  let squares = 0;
  for (let n = begin; n < end; n++) squares += (values[n] - mean) ** 2;
  const factor = 1 / Math.sqrt(squares / size + EPSILON);
  for (let n = begin; n < end; n++) values[n] = (values[n] - mean) * factor * scales[n];
}

/** Returns the affine map that a norm with running statistics is: x * factors + shifts, from vectors of one length. */
export function affineOfNorm(means, variances, scales) {
  const factors = Float64Array.from(scales, (scale, n) => scale / Math.sqrt(variances[n] + EPSILON));
  return { factors, shifts: factors.map((factor, n) => -means[n] * factor) };
}
