// The page: files, the microphone and taggers come in; what was heard goes to the view.

import { AudioError } from "./audio.js";
import { Cancelled, Engine } from "./engine.js";
import { impliedClasses, ranked } from "./events.js";
import { Microphone } from "./microphone.js";
import { element, tagItems, View } from "./view.js";

const MODEL = "tagger.onnx";
const SHOW_EVERY = 2000; // ms while a recording is tagged: drawing takes time from tagging

const isSupported = Boolean(
  self.WebAssembly && self.Worker && self.OfflineAudioContext && self.AudioWorkletNode && self.ResizeObserver,
);

class Page {
  constructor(engine, view) {
    Object.assign(this, { engine, view });
    this.file = null;
    this.job = new AbortController(); // of what is tagged now, or was last
    this.tagging = Promise.resolve();
    this.microphone = null;
    element("file").onchange = ({ target }) => {
      if (target.files.length) this.take(target.files[0]);
      target.value = ""; // the same file may be chosen again
    };
    element("microphone").onclick = () => this.#toggleMicrophone();
    element("cancel").onclick = () => this.job.abort();
    for (const [name, isOver] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
      document.addEventListener(name, (event) => {
        event.preventDefault();
        document.body.classList.toggle("dragging", isOver);
        if (name === "drop" && event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
      });
    }
    this.#showTagger();
  }

  /** A recording, or a tagger for it and what comes after; what is tagged now is cancelled for it. */
  take(file) {
    this.job.abort();
    this.job = new AbortController();
    const { signal } = this.job;
    const isTagger = file.name.toLowerCase().endsWith(".onnx");
    this.tagging = this.tagging.then(() => (isTagger ? this.#open(file, signal) : this.#tag(file, signal)));
  }

  async #open(file, signal) {
    say("");
    try {
      await this.engine.open(new Uint8Array(await file.arrayBuffer()), file.name);
    } catch (error) {
      say(`${file.name}: ${error.message}`);
      return;
    }
    this.#showTagger();
    if (this.file !== null) await this.#tag(this.file, signal);
  }

  async #tag(file, signal) {
    say("");
    this.file = file;
    this.view.clear();
    working(`Decoding ${file.name}`, null);
    try {
      let shown = -Infinity;
      const heard = await this.engine.tag(file, signal, (share, soFar) => {
        working(`Listening to ${file.name}`, share);
        if (soFar === null || performance.now() - shown < SHOW_EVERY) return;
        this.view.show(soFar());
        shown = performance.now();
      });
      this.view.show(heard);
      working(null);
    } catch (error) {
      working(null);
      this.view.clear();
      if (error instanceof Cancelled) return;
      const reason = error instanceof AudioError ? error.message : `the tagger failed (${error.message}); reload the page`;
      say(`${file.name}: ${reason}`);
    }
  }

  async #toggleMicrophone() {
    const button = element("microphone");
    button.disabled = true;
    say("");
    try {
      if (this.microphone === null) {
        this.job.abort();
        await this.tagging;
        const onError = (error) => say(`The tagger failed (${error.message}); reload the page`);
        this.microphone = await Microphone.start(this.engine, (scores) => this.#showLive(scores), onError);
      } else {
        const { microphone } = this;
        this.microphone = null;
        this.take(await microphone.stop());
      }
    } catch (error) {
      say(`The microphone ${error.message}`);
    }
    const isOn = this.microphone !== null;
    button.disabled = false;
    button.ariaPressed = String(isOn);
    button.textContent = isOn ? "Stop, and show the recording" : "Listen to the microphone";
    element("live").hidden = !isOn;
    element("live-tags").replaceChildren();
  }

  #showLive(scores) {
    const { labels, above } = this.engine.tagger;
    const { threshold, top } = this.view;
    const passes = scores.map((score) => (score >= threshold ? 1 : 0));
    const implied = impliedClasses(passes, above);
    const heard = ranked([...scores.keys()].filter((i) => passes[i] && !implied[i]), scores).slice(0, top);
    element("live-tags").replaceChildren(...tagItems(heard.map((i) => labels[i]), heard.map((i) => scores[i]), threshold));
  }

  #showTagger() {
    const { name, labels, window } = this.engine.tagger;
    element("tagger").textContent = `Tagger: ${name}, ${labels.length} sounds, windows of ${window} s.`;
  }
}

/** An error in words, or nothing. */
const say = (text) => (element("error").textContent = text);

/** What is done and how far it is, null where that is unknown; or that nothing is done. */
function working(text, share) {
  element("work").hidden = text === null;
  if (text === null) return;
  if (element("status").textContent !== text) element("status").textContent = text;
  if (share === null) element("progress").removeAttribute("value");
  else element("progress").value = share;
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing beside the page; build it again with make page`);
  return answer;
}

async function start() {
  element("unsupported").hidden = true;
  working("Loading the tagger", null);
  try {
    const [defaults, model] = await Promise.all([
      fetched("defaults.json").then((answer) => answer.json()),
      fetched(MODEL).then((answer) => answer.arrayBuffer()),
    ]);
    const engine = new Engine(new Worker("worker.js", { type: "module" }), defaults);
    await engine.open(new Uint8Array(model), MODEL);
    new Page(engine, new View(defaults));
    element("start").hidden = false;
  } catch (error) {
    say(`The tagger cannot be loaded: ${error.message}`);
  }
  working(null);
}

if (isSupported) start();
