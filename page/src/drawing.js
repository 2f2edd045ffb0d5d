// Waveform and log-mel on canvases that share one time axis with the events below them.

const PEAKS = 100; // a second, see worker.js
const RANGE = 160; // bytes of the spectrogram below its loudest: 80 dB in half decibels
// matplotlib's magma, sampled
const MAGMA = [
  ...[[0, 0, 4], [20, 14, 54], [59, 15, 112], [100, 26, 128], [140, 41, 129], [183, 55, 121], [222, 73, 104]],
  ...[[247, 112, 92], [254, 159, 109], [254, 207, 146], [252, 253, 191]],
];

/** Fit a canvas to its place on the screen, in device pixels. */
function fit(canvas) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(Math.round(canvas.clientWidth * scale), 1);
  canvas.height = Math.max(Math.round(canvas.clientHeight * scale), 1);
  return canvas.getContext("2d");
}

/** peaks: lowest and highest sample in turn. span: {start, end} in seconds. */
export function drawWaveform(canvas, peaks, span) {
  const pen = fit(canvas);
  const { width, height } = canvas;
  pen.fillStyle = getComputedStyle(canvas).color;
  const limit = Math.max(peaks.reduce((most, value) => Math.max(most, Math.abs(value)), 0), 1e-3) * 1.05;
  const y = (value) => (height * (1 - value / limit)) / 2;
  const scale = (PEAKS * (span.end - span.start)) / width;
  for (let x = 0; x < width; x++) {
    const first = Math.floor(span.start * PEAKS + x * scale);
    const last = Math.max(Math.floor(span.start * PEAKS + (x + 1) * scale), first + 1);
    let [low, high] = [0, 0];
    for (let i = first; i < last && 2 * i < peaks.length; i++) {
      low = Math.min(low, peaks[2 * i]);
      high = Math.max(high, peaks[2 * i + 1]);
    }
    pen.fillRect(x, y(high), 1, Math.max(y(low) - y(high), 1));
  }
}

/** The model's own log-mel, the lowest band at the bottom. */
export function drawSpectrogram(canvas, picture, span) {
  const pen = fit(canvas);
  const { width, height } = canvas;
  const { bands } = picture;
  const image = new ImageData(width, bands);
  const loudest = new Uint8ClampedArray(bands);
  const top = Math.max(picture.bytes.reduce((most, value) => Math.max(most, value), 0), RANGE);
  const step = (span.end - span.start) / width;
  for (let x = 0; x < width; x++) {
    picture.loudest(span.start + x * step, span.start + (x + 1) * step, loudest);
    for (let band = 0; band < bands; band++) {
      const place = 4 * ((bands - 1 - band) * width + x);
      image.data.set(COLOURS[Math.max(loudest[band] - top + RANGE, 0)], place);
    }
  }
  const small = document.createElement("canvas");
  [small.width, small.height] = [width, bands];
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, width, height);
}

const COLOURS = Array.from({ length: RANGE + 1 }, (_, i) => {
  const place = (i / RANGE) * (MAGMA.length - 1);
  const [a, b] = [MAGMA[Math.floor(place)], MAGMA[Math.ceil(place)]];
  return [...a.map((value, channel) => value + (b[channel] - value) * (place % 1)), 255];
});

/** Hz of some lines on the mel axis, and their height as a share, from the bottom. */
export function frequencies({ f_min: lowest, f_max: highest }) {
  const mel = (hertz) => Math.log10(1 + hertz / 700);
  const share = (hertz) => (mel(hertz) - mel(lowest)) / (mel(highest) - mel(lowest));
  const shown = [300, 1000, 3000, 10_000].filter((hertz) => hertz > lowest && hertz < highest);
  return shown.map((hertz) => ({ hertz, share: share(hertz) }));
}

/** Seconds of the marks on a time axis, eight at most. */
export function marks({ start, end }) {
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  const step = steps.find((one) => (end - start) / one <= 8) ?? 7200;
  const first = Math.ceil(start / step);
  return Array.from({ length: Math.floor(end / step) - first + 1 }, (_, i) => (first + i) * step);
}

/** 0:03.4; 1:02:03 from ten minutes on. */
export function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const whole = Math.floor(tenths / 10);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 600) return `${Math.floor(whole / 60)}:${two(whole % 60)}.${tenths % 10}`;
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
