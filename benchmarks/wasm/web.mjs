// onnxruntime-web in node: one thread, SIMD. Reads one JSON command a line, answers each with one line.
//
//   {"load": "model.onnx", "input": "x.f32", "shape": [1, 64]}  -> {"outputs": [[...], ...]}
//   {"runs": 100}                                               -> {"seconds": 0.0123}
//
// It times its own runs, so that the pipe between the processes costs nothing. A failure is {"error": "..."}.

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

let session, feeds;

async function load({ load: path, input, shape }) {
  const bytes = await readFile(input);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4).slice();
  await session?.release();
  session = await ort.InferenceSession.create(path, { executionProviders: ["wasm"] });
  feeds = { [session.inputNames[0]]: new ort.Tensor("float32", values, shape) };
  const outputs = await session.run(feeds);
  return { outputs: session.outputNames.map((name) => Array.from(outputs[name].data)) };
}

async function time({ runs }) {
  const began = performance.now();
  for (let run = 0; run < runs; run++) await session.run(feeds);
  return { seconds: (performance.now() - began) / 1000 };
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = await ("load" in command ? load(command) : time(command));
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
