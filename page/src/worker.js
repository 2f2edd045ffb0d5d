// The worker: mono blocks of a recording in, scores and log-mel of its windows out. The page never waits for it.

import * as ort from "onnxruntime-web/wasm";
import { Resampler } from "./resample.js";
import { WindowCutter } from "./windows.js";

const PEAKS = 100; // a second: pairs of lowest and highest sample
const STEPS = 2; // of the spectrogram's bytes, a decibel

ort.env.wasm.wasmPaths = {
  mjs: new URL("ort-wasm-simd-threaded.mjs", import.meta.url).href,
  wasm: new URL("ort-wasm-simd-threaded.wasm", import.meta.url).href,
};
// Threads need the headers that dcls-page sends. They wait for each other at every layer: with one a core, on two busy
// cores, tagging took longer than without them, and more than four find nothing to do in 5 s of sound.
const cores = Math.floor(navigator.hardwareConcurrency / 2);
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(Math.max(cores, 1), 4) : 1;

let session;
let facts;
let stream; // what is being tagged
let ear; // what is listened to live

const calls = {
  /** Open a tagger; `about` is what `readFacts` gives. */
  async open(model, about) {
    session = await ort.InferenceSession.create(model, { enableMemPattern: false, logSeverityLevel: 3 });
    facts = about;
  },

  /** Begin a recording of that sample rate. */
  begin(rate, tail) {
    const samples = (seconds) => Math.round(seconds * facts.sampleRate);
    stream = {
      resampler: rate === facts.sampleRate ? null : new Resampler(rate, facts.sampleRate),
      cutter: new WindowCutter(samples(facts.window), samples(facts.hop), samples(tail)),
      peaks: new Peaks(facts.sampleRate / PEAKS),
      length: 0,
    };
  },

  /** {windows: [{start, scores, frames}], peaks} that are complete with a block. */
  push(block) {
    return heard(stream.resampler === null ? block : stream.resampler.push(block));
  },

  /** The same for the rest, and the recording's duration in seconds. */
  async finish() {
    const rest = await heard(stream.resampler === null ? new Float32Array(0) : stream.resampler.finish());
    const last = { windows: await scored(stream.cutter.finish()), peaks: stream.peaks.finish() };
    const duration = stream.length / facts.sampleRate;
    return { windows: [...rest.windows, ...last.windows], peaks: [...rest.peaks, ...last.peaks], duration };
  },

  /** Listen live at that sample rate. */
  listen(rate) {
    const length = Math.round(facts.window * facts.sampleRate);
    ear = { resampler: rate === facts.sampleRate ? null : new Resampler(rate, facts.sampleRate), length };
    ear.samples = new Float32Array(0);
  },

  /** The scores of the last window, with the samples that are new. */
  async hear(block) {
    const fresh = ear.resampler === null ? block : ear.resampler.push(block);
    const joined = new Float32Array(ear.samples.length + fresh.length);
    joined.set(ear.samples);
    joined.set(fresh, ear.samples.length);
    ear.samples = joined.slice(-ear.length);
    if (!ear.samples.length) return null;
    const waveform = new ort.Tensor("float32", ear.samples.slice(), [1, ear.samples.length]);
    return (await session.run({ waveform }, ["scores"])).scores.data;
  },
};

/** Lowest and highest sample of every `size`, in blocks. */
class Peaks {
  constructor(size) {
    this.size = Math.round(size);
    this.count = 0;
    this.low = this.high = 0;
  }

  push(block) {
    const found = [];
    for (const sample of block) {
      if (sample < this.low) this.low = sample;
      if (sample > this.high) this.high = sample;
      if (++this.count === this.size) found.push(...this.finish());
    }
    return found;
  }

  finish() {
    const found = this.count ? [this.low, this.high] : [];
    this.count = this.low = this.high = 0;
    return found;
  }
}

async function heard(samples) {
  stream.length += samples.length;
  return { windows: await scored(stream.cutter.push(samples)), peaks: stream.peaks.push(samples) };
}

async function scored(windows) {
  const results = [];
  for (const { start, samples } of windows) {
    const waveform = new ort.Tensor("float32", samples, [1, samples.length]);
    const { scores, log_mel: logMel } = await session.run({ waveform }, ["scores", "log_mel"]);
    if (scores.data.length !== facts.labels.length) throw new Error("the tagger's scores are not those of its labels");
    const sounding = Math.ceil((samples.length / facts.sampleRate) * PEAKS); // the graph pads short clips
    results.push({ start: start / facts.sampleRate, scores: scores.data, frames: picture(logMel, sounding) });
    logMel.dispose();
  }
  return results;
}

/** (frames, bands) bytes: half decibels above silence. */
function picture({ data, dims }, sounding) {
  const { decibels, floor, mean, std } = facts.logMel;
  const silence = ((decibels ? 10 * Math.log10(floor) : Math.log(floor)) - mean) / std;
  const steps = STEPS * std * (decibels ? 1 : 10 / Math.log(10));
  const [bands, length] = dims.slice(-2);
  const frames = Math.min(length, sounding);
  const bytes = new Uint8ClampedArray(frames * bands);
  for (let band = 0; band < bands; band++) {
    for (let frame = 0; frame < frames; frame++) {
      bytes[frame * bands + band] = (data[band * length + frame] - silence) * steps;
    }
  }
  return bytes;
}

let queue = Promise.resolve(); // calls are answered one after the other
self.onmessage = ({ data: { id, call, values } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, value: await calls[call](...values) });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  });
};
