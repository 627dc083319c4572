// Has Dawn, the WebGPU of Chromium, compile every shader of a folder on its null backend: no GPU, no browser.
//
//   node compile.mjs FOLDER
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
const folder = process.argv[2];
const names = readdirSync(folder).filter((name) => name.endsWith(".wgsl")).sort();
const gpu = create(["backend=null"]); // by name, for a collected one takes its devices with it
const adapter = await gpu.requestAdapter();
const device = await adapter.requestDevice({ requiredFeatures: ["shader-f16", "subgroups"] });

const reasons = new Map();
let refused = 0;
for (const name of names) {
  const code = readFileSync(join(folder, name), "utf8");
  device.pushErrorScope("validation");
  const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
  const scope = await device.popErrorScope();
  const errors = messages.filter(({ type }) => type === "error");
  if (errors.length === 0 && !scope) continue;
  refused += 1;
  const { message, lineNum } = errors[0] ?? { message: scope.message, lineNum: 0 };
  const line = code.split("\n")[lineNum - 1] ?? "";
  const places = reasons.get(`${message}\n    ${line.trim()}`) ?? [];
  reasons.set(`${message}\n    ${line.trim()}`, [...places, name]);
}

for (const [reason, places] of reasons) {
  console.log(`${places.length} shaders, ${places[0]} the first: ${reason}`);
}
console.log(`Dawn compiles ${names.length - refused} of ${names.length} shaders`);
// dawn.node keeps a process alive.
process.exit(names.length > 0 && refused === 0 ? 0 : 1);
