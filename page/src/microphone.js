// The microphone: live scores twice a second, and a recording at the end.

import { AudioError, wavFile } from "./audio.js";

const INTERVAL = 0.5; // s between scores
const LONGEST = 3600; // s: an hour is 700 MB
const REASONS = {
  NotAllowedError: "may not be used; allow it in the browser's settings of this page",
  NotFoundError: "is missing; connect one",
  NotReadableError: "is in use by another program",
};

export class Microphone {
  /** onScores(scores) while it listens, onError(error) once if it cannot go on. Throws AudioError. */
  static async start(engine, onScores, onError) {
    if (!navigator.mediaDevices) throw new AudioError("needs a page that comes over https or from this machine");
    const microphone = new Microphone();
    try {
      // as it sounds: what is made for calls takes sounds away that are no speech
      const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
      microphone.stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new AudioError(REASONS[error.name] ?? `cannot be opened (${error.message})`);
    }
    try {
      await microphone.#listen(engine, onScores, onError);
    } catch (error) {
      await microphone.#close();
      throw error;
    }
    return microphone;
  }

  /** The recording as a file. */
  async stop() {
    const rate = this.context.sampleRate;
    await this.#close();
    if (!this.blocks.length) throw new AudioError("gave no sound; try again");
    return wavFile(this.blocks, rate, "microphone.wav");
  }

  async #listen(engine, onScores, onError) {
    this.context = new AudioContext();
    this.blocks = [];
    const { sampleRate } = this.context;
    await this.context.audioWorklet.addModule("capture.js");
    await engine.listen(sampleRate);
    const mono = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
    const node = new AudioWorkletNode(this.context, "capture", mono);
    let [fresh, busy] = [[], false];
    node.port.onmessage = async ({ data }) => {
      if (this.blocks.length * data.length > LONGEST * sampleRate) return;
      this.blocks.push(data);
      fresh.push(data);
      if (busy || fresh.length * data.length < INTERVAL * sampleRate) return;
      busy = true;
      const block = joined(fresh);
      fresh = [];
      try {
        const scores = await engine.hear(block);
        if (scores && this.context.state !== "closed") onScores(scores);
      } catch (error) {
        onError(error);
      }
      busy = false;
    };
    this.context.createMediaStreamSource(this.stream).connect(node);
    await this.context.resume();
  }

  async #close() {
    for (const track of this.stream.getTracks()) track.stop();
    if (this.context && this.context.state !== "closed") await this.context.close();
  }
}

function joined(blocks) {
  const all = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    all.set(block, at);
    at += block.length;
  }
  return all;
}
