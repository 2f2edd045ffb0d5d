// From any sample rate to any other, in blocks: a windowed sinc, one set of weights for each phase.
//
// The pass band is that of soxr's HQ setting, which the Python side uses: flat to 0.913 of the lower Nyquist
// frequency, 120 dB (20 bits) down at it. A Kaiser window needs (attenuation - 8) / (2.285 width) taps for that.

const ATTENUATION = 120; // dB
const PASS_BAND = 0.913; // of the lower Nyquist frequency
const BETA = 0.1102 * (ATTENUATION - 8.7);

export class Resampler {
  constructor(from, to) {
    const common = greatestCommonDivisor(from, to);
    this.up = to / common;
    this.down = from / common;
    const scale = Math.min(1, to / from); // the lower Nyquist frequency, of the input's
    const taps = (ATTENUATION - 8) / (2.285 * Math.PI * (1 - PASS_BAND) * scale);
    this.half = 2 * Math.ceil(taps / 4); // even: four products at a time
    this.weights = filter(this.up, this.half, (scale * (1 + PASS_BAND)) / 2);
    this.pending = new Float64Array(this.half); // input from sample `first` on; silence before the start
    this.first = -this.half;
    this.received = 0;
    this.produced = 0;
  }

  /** The output that is complete with `block`. */
  push(block) {
    this.received += block.length;
    return this.#advance(block);
  }

  /** The rest: in total as many samples as soxr gives, input x to / from, rounded. */
  finish() {
    const total = Math.round((this.received * this.up) / this.down);
    return this.#advance(new Float32Array(this.half + 1)).subarray(0, Math.max(total - this.produced, 0));
  }

  #advance(block) {
    const { up, down, half, weights } = this;
    const input = new Float64Array(this.pending.length + block.length);
    input.set(this.pending);
    input.set(block, this.pending.length);
    const end = this.first + input.length; // output n needs input up to n down / up + half
    const count = Math.max(Math.ceil(((end - half) * up) / down) - this.#next, 0);
    const output = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const position = (this.#next + i) * down;
      const begin = Math.floor(position / up) - half + 1 - this.first;
      const row = (position % up) * 2 * half;
      output[i] = product(input, begin, weights, row, 2 * half);
    }
    this.produced = this.#next;
    this.#next += count;
    const spare = Math.max(Math.floor((this.#next * down) / up) - half + 1 - this.first, 0);
    this.pending = input.slice(spare);
    this.first += spare;
    return output;
  }

  #next = 0; // output sample
}

/** The scalar product of `count` values; four sums side by side take half the time of one. */
function product(a, i, b, j, count) {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (const end = i + count; i < end; i += 4, j += 4) {
    s0 += a[i] * b[j];
    s1 += a[i + 1] * b[j + 1];
    s2 += a[i + 2] * b[j + 2];
    s3 += a[i + 3] * b[j + 3];
  }
  return s0 + s1 + s2 + s3;
}

/** (phases, 2 half) weights; tap t of phase p weighs the input sample t - half + 1 after the output's position. */
function filter(phases, half, cutoff) {
  const weights = new Float64Array(phases * 2 * half);
  const norm = bessel(BETA);
  for (let phase = 0; phase < phases; phase++) {
    for (let tap = 0; tap < 2 * half; tap++) {
      const x = tap - half + 1 - phase / phases;
      const edge = Math.max(1 - (x / half) ** 2, 0);
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * cutoff * x) / (Math.PI * cutoff * x);
      weights[phase * 2 * half + tap] = (cutoff * sinc * bessel(BETA * Math.sqrt(edge))) / norm;
    }
  }
  return weights;
}

/** The modified Bessel function I0. */
function bessel(x) {
  let term = 1;
  let sum = 1;
  for (let k = 1; term > sum * 1e-17; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

const greatestCommonDivisor = (a, b) => (b === 0 ? a : greatestCommonDivisor(b, a % b));
