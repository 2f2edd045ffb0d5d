// How recordings are cut in windows: audioset_dcls/tagging/windows.py.

/**
 * Windows of `window` samples begin every `hop`; what remains at the end, if it is more than `tail` samples, gets a
 * window that ends with the waveform. A waveform shorter than `window` is one window as it is.
 */
export class WindowCutter {
  constructor(window, hop, tail) {
    Object.assign(this, { window, hop, tail });
    this.buffer = new Float32Array(0);
    this.offset = 0; // of the buffer, samples
    this.next = 0;
    this.covered = 0;
  }

  /** [{start, samples}] that are complete with `block`. */
  push(block) {
    const joined = new Float32Array(this.buffer.length + block.length);
    joined.set(this.buffer);
    joined.set(block, this.buffer.length);
    const windows = [];
    while (this.offset + joined.length >= this.next + this.window) {
      const begin = this.next - this.offset;
      windows.push({ start: this.next, samples: joined.slice(begin, begin + this.window) });
      this.covered = this.next + this.window;
      this.next += this.hop;
    }
    // the last `window` samples may be needed for the last window
    const spare = Math.min(Math.max(joined.length - this.window, 0), this.next - this.offset);
    this.buffer = joined.slice(spare);
    this.offset += spare;
    return windows;
  }

  /** The last window, or none. */
  finish() {
    const length = this.offset + this.buffer.length;
    if (!length || (length - this.covered <= this.tail && this.covered)) return [];
    const begin = Math.max(length - this.window, 0);
    return [{ start: begin, samples: this.buffer.slice(begin - this.offset) }];
  }
}
