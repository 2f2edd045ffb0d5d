// What a tagger's .onnx file says of itself. ONNX Runtime gives no access to it in a browser, so the protobuf is read
// here: of a ModelProto only field 14, metadata_props, a list of key and value.

const METADATA = 14;
const LENGTH_DELIMITED = 2;
const SIZES = { 1: 8, 5: 4 }; // of the wire types with a fixed size

/** {labels, sampleRate, window, hop, logMel}; throws an Error in words for what dcls-export did not write. */
export function readFacts(bytes, defaults) {
  let properties;
  try {
    properties = metadata(bytes);
  } catch {
    throw new Error("is no ONNX file");
  }
  if (!("labels" in properties && "sample_rate" in properties)) throw new Error("is no tagger written by dcls-export");
  const facts = Object.fromEntries(Object.entries(properties).map(([key, text]) => [key, plain(text)]));
  const { labels, sample_rate: sampleRate } = facts;
  if (!Array.isArray(labels) || !labels.length || !labels.every((label) => typeof label === "string")) {
    throw new Error("has no list of labels; export it again with dcls-export");
  }
  const window = Math.min(facts.clip_seconds ?? defaults.longest_window, defaults.longest_window);
  const hop = facts.hop_seconds ?? window / 2;
  if (![sampleRate, window, hop].every((number) => number >= 0.1) || hop > window) {
    throw new Error("states a sample rate, window or hop that cannot be; export it again with dcls-export");
  }
  return { labels, sampleRate, window, hop, logMel: { ...defaults.log_mel, ...facts.model?.log_mel } };
}

function metadata(bytes) {
  const found = {};
  for (const [field, content] of fields(bytes)) {
    if (field !== METADATA) continue;
    const pair = Object.fromEntries(fields(content));
    found[text(pair[1])] = text(pair[2]);
  }
  return found;
}

/** [field number, content] of what has a length. */
function* fields(bytes) {
  let at = 0;
  const number = () => {
    let [value, scale, byte] = [0, 1, 0x80];
    while (byte & 0x80) {
      if (at >= bytes.length) throw new RangeError("cut off");
      byte = bytes[at++];
      value += (byte & 0x7f) * scale;
      scale *= 128;
    }
    return value;
  };
  while (at < bytes.length) {
    const key = number();
    const type = key & 7;
    if (type === LENGTH_DELIMITED) {
      const length = number();
      if (at + length > bytes.length) throw new RangeError("cut off");
      yield [Math.floor(key / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (type === 0) {
      number();
    } else if (type in SIZES) {
      at += SIZES[type];
    } else {
      throw new RangeError("unknown type");
    }
  }
}

const text = (content) => new TextDecoder("utf-8", { fatal: true }).decode(content);

/** What dcls-export wrote: JSON, or a text as it is. */
function plain(value) {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}
