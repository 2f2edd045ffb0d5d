// What was heard, on the page: tags, the time axis with its events, downloads.

import { clock, drawSpectrogram, drawWaveform, frequencies, marks } from "./drawing.js";
import { ranked } from "./events.js";
import * as writers from "./writers.js";

const SHORTEST = 0.5; // s on the whole width
const DOWNLOADS = [
  ["Tags (CSV)", ".csv", (record) => writers.csv(record, false)],
  ["Events (CSV)", ".events.csv", (record) => writers.csv(record, true)],
  ["JSON", ".json", (record) => writers.json(record, true)],
  ["Audacity labels", ".audacity.txt", writers.audacity],
  ["Raven selections", ".raven.txt", writers.raven],
];

export const element = (id) => document.getElementById(id);

function create(name, properties = {}, ...children) {
  const created = Object.assign(document.createElement(name), properties);
  created.append(...children);
  return created;
}

/** Items of a list of tags: score, name, bar. */
export function tagItems(labels, scores, threshold) {
  return labels.map((label, i) => {
    const score = scores[i];
    const item = create(
      "li",
      { className: score < threshold ? "below" : "" },
      create("span", { textContent: score.toFixed(2) }),
      create("span", { textContent: label }),
      create("meter", { value: score, max: 1, ariaHidden: "true" }),
    );
    return item;
  });
}

export class View {
  constructor({ threshold, top }) {
    this.heard = null;
    this.player = element("player");
    element("threshold").value = threshold;
    element("top").value = top;
    for (const id of ["threshold", "top", "all-levels", "search"]) {
      element(id).addEventListener("input", () => this.#showAll());
    }
    element("zoom-in").onclick = () => this.#zoom(0.5);
    element("zoom-out").onclick = () => this.#zoom(2);
    element("zoom-all").onclick = () => this.#zoom(Infinity);
    element("scroll").oninput = ({ target }) => this.#moveTo(Number(target.value));
    element("axis").addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    for (const id of ["waveform", "spectrogram"]) {
      element(id).onclick = (event) => (this.player.currentTime = this.#timeAt(event));
    }
    element("downloads").append(
      ...DOWNLOADS.map(([name, suffix, text]) =>
        create("button", { type: "button", textContent: name, onclick: () => this.#download(suffix, text) }),
      ),
    );
    new ResizeObserver(() => this.#showTime()).observe(element("axis"));
    this.player.onplay = () => requestAnimationFrame(() => this.#follow());
    this.player.onseeked = () => this.#placeHead();
  }

  get threshold() {
    return Number(element("threshold").value);
  }

  get top() {
    return Math.max(Math.round(Number(element("top").value)) || 1, 1);
  }

  /** Nothing has been heard yet. */
  clear() {
    this.heard = this.span = null;
    this.player.pause();
    element("result").hidden = true;
  }

  /** What `Engine.tag` has heard, of a part or of all. */
  show(heard) {
    if (this.heard === null) {
      URL.revokeObjectURL(this.player.src);
      this.player.src = URL.createObjectURL(heard.file);
      this.span = { start: 0, end: heard.result.duration };
    }
    this.heard = heard;
    element("result").hidden = false;
    element("name").textContent = `${heard.result.name}, ${clock(heard.result.duration)}`;
    element("notes").textContent = heard.notes.join("; ");
    element("hertz").replaceChildren(
      ...frequencies(heard.result.tagger.logMel).map(({ hertz, share }) => {
        const label = create("span", { textContent: hertz < 1000 ? `${hertz} Hz` : `${hertz / 1000} kHz` });
        label.style.top = `${100 * (1 - share)}%`;
        return label;
      }),
    );
    this.#showAll();
  }

  #showAll() {
    element("threshold-value").textContent = this.threshold.toFixed(2);
    if (this.heard === null) return;
    this.record = this.heard.result.record(this.threshold, this.top);
    this.#showTags();
    this.#showTime();
  }

  #matches(label) {
    return label.toLowerCase().includes(element("search").value.trim().toLowerCase());
  }

  #isShown(entry) {
    return (!entry.implied || element("all-levels").checked) && this.#matches(entry.label);
  }

  /** Those that count as heard; a search shows all classes that it finds, with their scores. */
  #showTags() {
    const { result } = this.heard;
    const { labels } = result.tagger;
    let tags = this.record.tags.filter((tag) => this.#isShown(tag));
    if (element("search").value.trim()) {
      const found = ranked([...labels.keys()].filter((i) => this.#matches(labels[i])), result.scores);
      tags = found.map((i) => ({ label: labels[i], score: result.scores[i] }));
    }
    const nothing = element("search").value.trim() ? "No sound has such a name." : this.#best();
    const items = tagItems(tags.map((tag) => tag.label), tags.map((tag) => tag.score), this.threshold);
    element("tags").replaceChildren(...(items.length ? items : [nothing]));
  }

  #best() {
    const { scores, tagger } = this.heard.result;
    const [best] = ranked([...scores.keys()], scores);
    const text = `Nothing reaches the threshold; nearest is ${tagger.labels[best]} with ${scores[best].toFixed(2)}.`;
    return create("li", { className: "none", textContent: text });
  }

  #showTime() {
    if (this.heard === null) return;
    const { span } = this;
    const { duration } = this.heard.result;
    const length = span.end - span.start;
    drawWaveform(element("waveform"), this.heard.peaks, span);
    drawSpectrogram(element("spectrogram"), this.heard.picture, span);
    element("marks").replaceChildren(
      ...marks(span).map((seconds) => {
        const mark = create("span", { textContent: clock(seconds) });
        mark.style.left = `${(100 * (seconds - span.start)) / length}%`;
        return mark;
      }),
    );
    const scroll = element("scroll");
    [scroll.disabled, scroll.max] = [length >= duration, Math.max(duration - length, 0)];
    scroll.value = span.start;
    scroll.ariaValueText = `${clock(span.start)} to ${clock(span.end)}`;
    element("zoom-out").disabled = element("zoom-all").disabled = length >= duration;
    element("zoom-in").disabled = length <= SHORTEST;
    this.#showEvents();
    this.#placeHead();
  }

  /** A lane a class, in the order of their first events; buttons for the events in sight. */
  #showEvents() {
    const { span } = this;
    const length = span.end - span.start;
    const lanes = new Map();
    for (const event of this.record.events.filter((one) => this.#isShown(one))) {
      if (!lanes.has(event.label)) lanes.set(event.label, []);
      if (event.end > span.start && event.start < span.end) lanes.get(event.label).push(event);
    }
    const items = [...lanes].map(([label, events]) =>
      create("li", {}, label, ...events.map((event) => this.#eventButton(event, span.start, length))),
    );
    const nothing = create("li", { className: "none", textContent: "No events." });
    element("lanes").replaceChildren(...(items.length ? items : [nothing]));
  }

  #eventButton(event, start, length) {
    const score = event.score.toFixed(2);
    const button = create("button", {
      type: "button",
      textContent: score,
      title: `${event.label}, ${clock(event.start)} to ${clock(event.end)}, score ${score}: click to hear it`,
      ariaLabel: `${score}: hear ${event.label} from ${clock(event.start)} to ${clock(event.end)}`,
      onclick: () => this.play(event),
    });
    button.style.left = `${(100 * (event.start - start)) / length}%`;
    button.style.width = `${(100 * (event.end - event.start)) / length}%`;
    return button;
  }

  /** From an event's start to its end. */
  play({ start, end }) {
    this.until = end;
    this.player.currentTime = start;
    this.player.play().catch(() => {}); // it was stopped at once, or the player says why it cannot
  }

  #follow() {
    if (this.until !== undefined && this.player.currentTime >= this.until) this.player.pause();
    this.#placeHead();
    if (this.player.paused) this.until = undefined;
    else requestAnimationFrame(() => this.#follow());
  }

  #placeHead() {
    if (this.span === null) return;
    const share = (this.player.currentTime - this.span.start) / (this.span.end - this.span.start);
    element("playhead").hidden = share < 0 || share > 1;
    element("playhead").style.left = `${100 * share}%`;
  }

  #timeAt(event) {
    const box = element("axis").getBoundingClientRect();
    return this.span.start + ((event.clientX - box.left) / box.width) * (this.span.end - this.span.start);
  }

  /** Show `factor` times as much; what is at `fixed` seconds stays at its place. */
  #zoom(factor, fixed = (this.span.start + this.span.end) / 2) {
    const { start, end } = this.span;
    const { duration } = this.heard.result;
    const length = Math.min(Math.max((end - start) * factor, Math.min(SHORTEST, duration)), duration);
    this.span = { start: 0, end: length };
    this.#moveTo(fixed - ((fixed - start) / (end - start)) * length);
  }

  #moveTo(start) {
    const length = this.span.end - this.span.start;
    const first = Math.min(Math.max(start, 0), this.heard.result.duration - length);
    this.span = { start: first, end: first + length };
    this.#showTime();
  }

  #wheel(event) {
    const length = this.span.end - this.span.start;
    if (event.ctrlKey) {
      event.preventDefault();
      this.#zoom(2 ** (event.deltaY / 200), this.#timeAt(event));
    } else if (event.deltaX) {
      event.preventDefault();
      this.#moveTo(this.span.start + (event.deltaX / element("axis").clientWidth) * length);
    }
  }

  #download(suffix, text) {
    const address = URL.createObjectURL(new Blob([text(this.record)], { type: "text/plain;charset=utf-8" }));
    create("a", { href: address, download: this.heard.result.name + suffix }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }
}
