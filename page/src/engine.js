// The page's side of the worker, and how a whole recording goes through it.

import { decode, monoBlocks, AudioError } from "./audio.js";
import { ancestors } from "./events.js";
import { Result } from "./result.js";
import { Spectrogram } from "./spectrogram.js";
import { readFacts } from "./tagger_file.js";

export class Cancelled extends Error {}

export class Engine {
  #worker;
  #calls = new Map();
  #count = 0;
  #dead = null;

  constructor(worker, defaults) {
    this.defaults = defaults;
    this.#worker = worker;
    worker.onmessage = ({ data: { id, value, error } }) => {
      const call = this.#calls.get(id);
      this.#calls.delete(id);
      if (error === undefined) call.resolve(value);
      else call.reject(new Error(error));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      this.#dead = new Error(event.message || "its program cannot be loaded");
      for (const call of this.#calls.values()) call.reject(this.#dead);
      this.#calls.clear();
    };
  }

  /** Open a tagger of that name; the one before stays if this one cannot be opened. */
  async open(bytes, name) {
    const facts = readFacts(bytes, this.defaults);
    await this.#call("open", [bytes, facts]);
    this.tagger = {
      ...facts,
      name,
      above: ancestors(facts.labels, this.defaults.parents),
      release: this.defaults.release,
    };
  }

  /**
   * {file, result, picture, peaks, notes} of a file. onProgress(share of the recording, a function that gives the same of
   * what is known so far, or null before the first window); `signal` is an AbortSignal. Throws AudioError, Cancelled, or
   * an Error of the model.
   */
  async tag(file, signal, onProgress) {
    if (signal.aborted) throw new Cancelled(); // while it waited
    const buffer = await decode(file);
    if (!buffer.length) throw new AudioError("holds no sound; record or export it again");
    const { logMel } = this.tagger;
    const high = Math.min(logMel.f_max, buffer.sampleRate / 2);
    const tagger = { ...this.tagger, band: [Math.min(logMel.f_min, high), high] };
    const picture = new Spectrogram(buffer.duration);
    const heard = { windows: [], peaks: [] };
    const notes = new Set();
    const keep = ({ windows, peaks }) => {
      for (const { start, scores, frames } of windows) {
        heard.windows.push({ start, scores });
        picture.add(start, frames);
      }
      for (const peak of peaks) heard.peaks.push(peak);
    };
    const soFar = (duration) => ({
      file,
      result: new Result(file.name, duration, heard.windows, tagger),
      picture,
      peaks: heard.peaks,
      notes: [...notes],
    });
    await this.#call("begin", [buffer.sampleRate, this.defaults.dropped_tail]);
    let done = 0;
    const onCancelled = (channel) =>
      notes.add(`its channels cancel each other in the mix; channel ${channel} was heard instead`);
    for (const block of monoBlocks(buffer, onCancelled)) {
      done += block.length;
      keep(await this.#call("push", [block], [block.buffer]));
      if (signal.aborted) throw new Cancelled();
      onProgress(done / buffer.length, heard.windows.length ? () => soFar(buffer.duration) : null);
    }
    const rest = await this.#call("finish", []);
    keep(rest);
    if (signal.aborted) throw new Cancelled();
    return soFar(rest.duration);
  }

  listen(rate) {
    return this.#call("listen", [rate]);
  }

  /** The scores of the last seconds, or null at the very start. */
  hear(block) {
    return this.#call("hear", [block], [block.buffer]);
  }

  #call(call, values, transfer = []) {
    if (this.#dead) return Promise.reject(this.#dead);
    return new Promise((resolve, reject) => {
      const id = this.#count++;
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, values }, transfer);
    });
  }
}
