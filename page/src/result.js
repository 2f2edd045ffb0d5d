// What was heard in one recording: audioset_dcls/tagging/results.py.

import { EventTracker, impliedClasses, ranked } from "./events.js";
import { round } from "./numbers.js";

const DIGITS = 4; // of a score

/**
 * windows: [{start: s, scores: (C,) Float32Array}] in order. tagger: {labels, above, window: s, band, release}.
 */
export class Result {
  constructor(name, duration, windows, tagger) {
    Object.assign(this, { name, duration, windows, tagger });
    const classes = tagger.labels.length;
    this.scores = new Float32Array(classes);
    this.means = new Float32Array(classes);
    for (let i = 0; i < classes; i++) {
      let sum = 0;
      for (const { scores } of windows) {
        this.scores[i] = Math.max(this.scores[i], scores[i]);
        sum += scores[i];
      }
      this.means[i] = sum / windows.length;
    }
  }

  /** What the writers write: `top` tags at most and what they imply, all events. */
  record(threshold, top) {
    const { labels, above, window, band, release } = this.tagger;
    const passes = this.scores.map((score) => (score >= Math.fround(threshold) ? 1 : 0));
    const implied = impliedClasses(passes, above);
    const order = ranked([...passes.keys()].filter((i) => passes[i]), this.scores);
    const own = new Set(order.filter((i) => !implied[i]).slice(0, top));
    const tracker = new EventTracker(labels, above, threshold, top, release);
    for (const { start, scores } of this.windows) tracker.add(start, start + window, scores);
    const duration = round(this.duration, 3);
    const rounded = (entry) => ({ ...entry, score: round(entry.score, DIGITS), mean: round(entry.mean, DIGITS) });
    return {
      file: this.name,
      duration,
      recorded: null,
      tags: order
        .filter((i) => implied[i] || own.has(i))
        .map((i) => rounded({ label: labels[i], score: this.scores[i], mean: this.means[i], implied: implied[i] === 1 })),
      events: tracker.finish().map((event) => rounded({ ...event, end: Math.min(event.end, duration) })),
      band,
    };
  }
}
