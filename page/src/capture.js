// In the audio thread: the microphone's samples on their way to the page, in blocks of a tenth of a second.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.count = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.block[this.count++] = sample;
      if (this.count === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.count = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
