// Files as dcls-tag writes them: audioset_dcls/tagging/writers/. Each function makes the text of one recording.

import { decimal, fixed } from "./numbers.js";

const COLUMNS = ["file", "start", "end", "label", "score", "mean", "implied", "time"];
const RAVEN_COLUMNS = [
  ...["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"],
  ...["Begin Path", "File Offset (s)", "Label", "Score"],
];
// what could act on a terminal or part lines: preprocessing/terminal.py
const UNSAFE = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]/gu;
const ID = /^[A-Za-z0-9_-]+$/;
const FORMULA = /^[=+\-@\t\r\n＝＋－＠]/;
const NAMED = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };

/** A row a tag, from 0 to the recording's end; with `timeline` a row an event. */
export function csv(record, timeline) {
  const entries = timeline ? record.events : record.tags;
  const nothing = { label: "", score: null, mean: null, implied: false };
  const rows = (entries.length ? entries : [nothing]).map((entry) => {
    const row = { file: record.file, start: 0, end: record.duration, time: "", ...entry };
    return COLUMNS.map((column) => csvCell(row[column])).join(",");
  });
  return [COLUMNS.join(","), ...rows, ""].join("\n");
}

/** An array of one object. */
export function json(record, timeline) {
  const shown = ["file", "duration", "recorded", "tags", ...(timeline ? ["events"] : [])];
  const text = pythonJson(Object.fromEntries(shown.map((key) => [key, record[key]])));
  return `[\n${text.replace(UNSAFE, (sign) => `\\u${hexadecimal(sign, 4)}`)}\n]\n`;
}

/** A label track of Audacity. */
export function audacity(record) {
  const line = (e) => `${fixed(e.start, 3)}\t${fixed(e.end, 3)}\t${printable(e.label)} ${fixed(e.score, 2)}\n`;
  return specificEvents(record).map(line).join("");
}

/** A selection table of Raven. A page knows no folder: the path is the file's name. */
export function raven(record) {
  const [low, high] = record.band;
  const lines = specificEvents(record).map((e, index) =>
    [
      ...[index + 1, "Spectrogram 1", 1, fixed(e.start, 3), fixed(e.end, 3), fixed(low, 0), fixed(high, 0)],
      ...[printable(record.file), fixed(e.start, 3), printable(e.label), fixed(e.score, 4)],
    ].join("\t"),
  );
  return [RAVEN_COLUMNS.join("\t"), ...lines, ""].join("\n");
}

const specificEvents = (record) => record.events.filter((event) => !event.implied);

const printable = (text) => text.replace(UNSAFE, escaped);

const hexadecimal = (sign, width) => sign.codePointAt(0).toString(16).padStart(width, "0");

function escaped(sign) {
  const code = sign.codePointAt(0);
  return NAMED[sign] ?? (code < 256 ? `\\x${hexadecimal(sign, 2)}` : `\\u${hexadecimal(sign, 4)}`);
}

/** A value without formulas, quoted where CSV needs it. */
function csvCell(value) {
  if (value === null) return "";
  if (typeof value === "number") return decimal(value);
  if (typeof value === "boolean") return String(value);
  const guarded = FORMULA.test(value) && !ID.test(value) ? `'${value}` : value;
  const safe = guarded.replace(UNSAFE, (sign) => (sign === "\t" || sign === "\n" ? sign : escaped(sign)));
  return /[,"\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** As Python's json.dumps writes it: a space behind commas and colons, a point in every float. */
function pythonJson(value) {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`;
  if (typeof value === "number") return decimal(value);
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, entry]) => `${JSON.stringify(key)}: ${pythonJson(entry)}`).join(", ")}}`;
}
