// The log-mel spectrogram of a recording, in memory that its length does not change.

const RATE = 100; // frames a second
const BANDS = 128;
const MOST = 2 ** 15; // columns: 4 MB

export class Spectrogram {
  constructor(duration) {
    this.pool = Math.max(Math.ceil((duration * RATE) / MOST), 1); // frames a column; it shows the loudest
    this.columns = Math.max(Math.ceil((duration * RATE) / this.pool), 1);
    this.rate = RATE / this.pool;
    this.bands = BANDS;
    this.bytes = new Uint8ClampedArray(this.columns * BANDS);
  }

  /** (frames, bands) bytes of a window that begins at `start` seconds. */
  add(start, frames) {
    const first = Math.round(start * RATE);
    for (let frame = 0; frame * this.bands < frames.length; frame++) {
      const column = Math.min(Math.floor((first + frame) / this.pool), this.columns - 1) * this.bands;
      for (let band = 0; band < this.bands; band++) {
        const value = frames[frame * this.bands + band];
        if (value > this.bytes[column + band]) this.bytes[column + band] = value;
      }
    }
  }

  /** The highest byte of the columns from `start` to `end` seconds, for each band, into `into`. */
  loudest(start, end, into) {
    into.fill(0);
    const first = Math.min(Math.max(Math.floor(start * this.rate), 0), this.columns - 1);
    const last = Math.min(Math.max(Math.ceil(end * this.rate), first + 1), this.columns);
    for (let column = first; column < last; column++) {
      for (let band = 0; band < this.bands; band++) {
        const value = this.bytes[column * this.bands + band];
        if (value > into[band]) into[band] = value;
      }
    }
  }
}
