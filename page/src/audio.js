// From a file to mono blocks: decoded by the browser, mixed down as preprocessing/audio.py does.

const COMMON_RATE = 48_000; // Hz, where the file does not tell: Opus and video have it
const MPEG_RATES = [
  [11_025, 12_000, 8_000], // MPEG 2.5
  [],
  [22_050, 24_000, 16_000], // 2
  [44_100, 48_000, 32_000], // 1
];
const AAC_RATES = [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
const BLOCK = 2 ** 19; // samples over all channels, as Python's decoder gives them to its mixer
const CANCELLED = 0.02; // of the energy that channels without anything in common leave in their mean
const MAX_AMPLITUDE = 100; // times full scale

/** An error whose message can be shown as it is. */
export class AudioError extends Error {}

/** An AudioBuffer at the file's own sample rate. */
export async function decode(file) {
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new AudioError("cannot be read; it may be too large for the browser's memory, or gone");
  }
  if (!bytes.byteLength) throw new AudioError("is empty (0 bytes); record or download it again");
  const rate = ownRate(new Uint8Array(bytes)) ?? COMMON_RATE;
  const size = bytes.byteLength; // decoding detaches the bytes
  let context;
  try {
    context = new OfflineAudioContext(1, 1, rate);
  } catch {
    context = new OfflineAudioContext(1, 1, COMMON_RATE); // the browser's own range is narrower
  }
  try {
    return await context.decodeAudioData(bytes);
  } catch (error) {
    if (error instanceof RangeError || size > 100e6) {
      throw new AudioError("is too long for the browser's memory; cut it in parts, or use dcls-tag");
    }
    throw new AudioError("is no audio that this browser can play; convert it to WAV, FLAC or MP3, or use dcls-tag");
  }
}

/** Hz as the file's header states it, or null. */
export function ownRate(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    return headerRate(view);
  } catch (error) {
    if (error instanceof RangeError) return null; // it is cut off
    throw error;
  }
}

function headerRate(view) {
  const name = (at) => String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
  const first = name(0);
  if (first === "RIFF") {
    let at = 12;
    while (name(at) !== "fmt ") at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) % 2);
    return sensible(view.getUint32(at + 12, true));
  }
  if (first === "fLaC") return sensible(view.getUint32(18) >>> 12);
  if (first === "OggS") {
    const packet = 27 + view.getUint8(26);
    if (name(packet) === "\x01vor") return sensible(view.getUint32(packet + 12, true));
    if (name(packet) === "\x7fFLA") return sensible(view.getUint32(packet + 27) >>> 12);
    return null; // Opus decodes at 48 kHz
  }
  if (name(4) === "ftyp") return mp4Rate(view, name);
  return mpegRate(view, name(0).startsWith("ID3") ? 10 + syncSafe(view, 6) : 0);
}

/** Of the first MP3 or AAC frame at `at`. */
function mpegRate(view, at) {
  const head = view.getUint16(at);
  if ((head & 0xfff6) === 0xfff0) return AAC_RATES[(view.getUint8(at + 2) >> 2) & 15] ?? null;
  if ((head & 0xffe0) === 0xffe0) return MPEG_RATES[(head >> 3) & 3][(view.getUint8(at + 2) >> 2) & 3] ?? null;
  return null;
}

/** Of the first AAC sample entry. It may state half the rate that its decoder gives, so low ones are doubled. */
function mp4Rate(view, name) {
  for (let at = 8; at < view.byteLength - 32; at++) {
    if (view.getUint8(at) === 0x6d && name(at) === "mp4a" && AAC_RATES.includes(view.getUint16(at + 28))) {
      const rate = view.getUint16(at + 28);
      return rate <= 24_000 ? 2 * rate : rate;
    }
  }
  return null;
}

const syncSafe = (view, at) => [0, 1, 2, 3].reduce((sum, i) => sum * 128 + view.getUint8(at + i), 0);

const sensible = (rate) => (rate >= 1_000 && rate <= 768_000 ? rate : null);

/** Mono blocks of an AudioBuffer. `onCancelled(channel)` is called if channels cancel each other. */
export function* monoBlocks(buffer, onCancelled) {
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i));
  const size = Math.floor(BLOCK / channels.length);
  for (let at = 0; at < buffer.length; at += size) {
    const parts = channels.map((channel) => channel.subarray(at, at + size));
    const block = mix(parts, onCancelled);
    checkAmplitude(block);
    yield block;
  }
}

/** The mean of the channels; the loudest one if they cancel each other in it. */
export function mix(channels, onCancelled) {
  if (channels.length === 1) return channels[0].slice();
  const mono = new Float32Array(channels[0].length);
  for (const channel of channels) {
    for (let i = 0; i < mono.length; i++) mono[i] += channel[i];
  }
  for (let i = 0; i < mono.length; i++) mono[i] *= Math.fround(1 / channels.length);
  const energies = channels.map(energy);
  const total = energies.reduce((sum, one) => sum + one);
  if (energy(mono) >= (CANCELLED * total) / channels.length ** 2) return mono;
  const loudest = energies.indexOf(Math.max(...energies));
  onCancelled(loudest + 1);
  return channels[loudest].slice();
}

const energy = (samples) => samples.reduce((sum, sample) => sum + sample * sample, 0);

function checkAmplitude(block) {
  const peak = block.reduce((most, sample) => (Math.abs(sample) <= most ? most : Math.abs(sample)), 0); // keeps NaN
  if (peak <= MAX_AMPLITUDE) return;
  const found = Number.isFinite(peak) ? `samples of ${peak.toPrecision(3)} times full scale` : "NaN or infinite samples";
  throw new AudioError(`holds ${found}; scale it to [-1, 1] or export it again`);
}

/** A WAV file of mono float samples: a recording of the microphone. */
export function wavFile(blocks, rate, name) {
  const size = 4 * blocks.reduce((sum, block) => sum + block.length, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((sign, i) => head.setUint8(at + i, sign.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 3, true); // floats
  head.setUint16(22, 1, true); // channel
  head.setUint32(24, rate, true);
  head.setUint32(28, 4 * rate, true);
  head.setUint16(32, 4, true);
  head.setUint16(34, 32, true);
  text(36, "data");
  head.setUint32(40, size, true);
  return new File([head.buffer, ...blocks], name, { type: "audio/wav" });
}
