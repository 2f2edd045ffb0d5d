// From window scores to events: audioset_dcls/tagging/events.py, and the ancestor matrix of preprocessing/labels.py.

import { round } from "./numbers.js";

/** For each class the indices of those above it. parents: display name -> names; others have none. */
export function ancestors(labels, parents) {
  const index = new Map(labels.map((label, i) => [label, i]));
  const above = new Map();
  const find = (label) => {
    if (!above.has(label)) {
      const direct = parents[label] ?? [];
      above.set(label, new Set([...direct, ...direct.flatMap((parent) => [...find(parent)])]));
    }
    return above.get(label);
  };
  return labels.map((label) => [...find(label)].filter((name) => index.has(name)).map((name) => index.get(name)));
}

/** (C,) 0 or 1: the classes that pass and have a descendant that does. */
export function impliedClasses(passes, above) {
  const implied = new Uint8Array(passes.length);
  for (let i = 0; i < passes.length; i++) {
    if (passes[i]) for (const other of above[i]) implied[other] = passes[other];
  }
  return implied;
}

/** Indices of the highest scores first; of equal scores the earlier class. */
export const ranked = (indices, scores) => [...indices].sort((a, b) => scores[b] - scores[a] || a - b);

/**
 * Merges consecutive windows into events, with two thresholds: a run of windows whose score stays at or above release x
 * threshold is one event if one of them reaches the threshold with the class among its `top` best, implied ones not
 * counted. Where windows overlap, an event is trimmed by what its silent neighbours did not hear.
 */
export class EventTracker {
  constructor(labels, above, threshold, top, release) {
    Object.assign(this, { labels, above, top });
    this.threshold = Math.fround(threshold); // scores have 32 bits, too
    this.held = Math.fround(this.threshold * release);
    this.events = [];
    this.last = null; // [start, end] of the window before
    this.runs = new Map(); // class -> what is known of its run of windows
  }

  add(start, end, scores) {
    for (const [index, run] of this.runs) {
      if (scores[index] < this.held) this.#close(index, run, start);
    }
    const passes = scores.map((score) => (score >= this.threshold ? 1 : 0));
    const implied = impliedClasses(passes, this.above);
    for (let index = 0; index < scores.length; index++) {
      if (scores[index] < this.held) continue;
      if (!this.runs.has(index)) {
        const onset = this.last === null ? start : Math.max(start, this.last[1]);
        this.runs.set(index, { first: start, onset, confirmed: false, best: 0, sum: 0, count: 0, passed: 0, implied: 0 });
      }
      const run = this.runs.get(index);
      run.best = Math.max(run.best, scores[index]);
      run.sum += scores[index];
      run.count += 1;
      run.passed += passes[index];
      run.implied += implied[index];
      run.confirmed ||= implied[index] === 1;
    }
    const own = [...scores.keys()].filter((index) => passes[index] && !implied[index]);
    for (const index of ranked(own, scores).slice(0, this.top)) this.runs.get(index).confirmed = true;
    this.last = [start, end];
  }

  /** All events, by start, then by falling score. */
  finish() {
    for (const [index, run] of this.runs) this.#close(index, run, this.last[1]);
    const order = (a, b) => a.start - b.start || b.score - a.score || (a.label < b.label ? -1 : 1);
    return this.events.sort(order);
  }

  #close(index, run, offset) {
    this.runs.delete(index);
    if (!run.confirmed) return;
    let [start, end] = [run.onset, Math.min(this.last[1], offset)];
    // its neighbours together cover the whole window, yet only this one heard it
    if (start >= end) [start, end] = [run.first, this.last[1]];
    this.events.push({
      start: round(start, 3),
      end: round(end, 3),
      label: this.labels[index],
      score: run.best,
      mean: run.sum / run.count,
      implied: 2 * run.implied >= run.passed,
    });
  }
}
