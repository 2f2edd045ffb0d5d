// node build.js DIST: bundles the page into a folder that any static host serves as it is.

import { build } from "esbuild";
import { copyFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2];
const runtime = join(here, "node_modules", "onnxruntime-web", "dist");

mkdirSync(target, { recursive: true });
await build({
  entryPoints: ["main.js", "worker.js", "capture.js"].map((name) => join(here, "src", name)),
  outdir: target,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  conditions: ["onnxruntime-web-use-extern-wasm"], // its threads load the runtime from a file of its own
  legalComments: "eof",
});
for (const name of ["index.html", "style.css", "icon.svg"]) copyFileSync(join(here, "src", name), join(target, name));
for (const name of ["ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
  copyFileSync(join(runtime, name), join(target, name));
}
