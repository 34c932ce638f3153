// The models: runs in a Worker, or on the page itself where a browser allows no Worker.

import * as ort from "onnxruntime-web/wasm";
import { Tokenizer } from "@huggingface/tokenizers";
import { clean } from "./clean.js";
import { normal } from "./noise.js";
import { bytesOf, changed, gunzip, unpack } from "./packs.js";
import { bestOf, darQuery, rankOf, scoresOf } from "./rank.js";

const packs = {}, sessions = {}; // by name
let tokenizer, facts, stopped = false;

// ---------------------------------------------------------------- loading

async function load({ name, text }) {
  const bytes = await gunzip(bytesOf(text));
  if (name === "wasm") {
    ort.env.wasm.wasmBinary = bytes.buffer;
    ort.env.wasm.numThreads = 1;
    return;
  }
  packs[name] = unpack(bytes);
  if (name === "facts") {
    ({ facts } = packs.facts);
    tokenizer = new Tokenizer(facts.tokenizer, facts.tokenizerConfig);
  }
}

async function open(name, graph, values) {
  const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  sessions[name] ||= await ort.InferenceSession.create(graph, {
    executionProviders: ["wasm"], graphOptimizationLevel: "disabled",
    externalData: [{ path: "weights", data }],
  });
  return sessions[name];
}

// The session of a pack; `dmcl` is the graph of `text` with other weights.
function session(name) {
  if (sessions[name]) return sessions[name];
  const { file, values } = name === "dmcl" ? packs.text : packs[name];
  return open(name, file, name === "dmcl" ? changed(packs.text, packs.dmcl) : values);
}

async function run(name, inputs) {
  return (await (await session(name)).run(inputs)).out.data;
}

const floats = (data, ...shape) => new ort.Tensor("float32", data, shape);
const integers = (data) => new ort.Tensor("int64", BigInt64Array.from(data, BigInt), [1, data.length]);

// ---------------------------------------------------------------- words

export function tokensOf(text, limit) {
  const { ids } = tokenizer.encode(text);
  return ids.length > limit ? [...ids.slice(0, limit - 1), facts.end] : ids;
}

const encoderTokens = (text) => tokensOf(clean(text), facts.context);

// The ranks of a target, and the best pictures, by every method that can be asked.
async function search({ text, view, round, target, count }) {
  const tokens = encoderTokens(text), queries = {};
  const read = (name) => run(name, { tokens: integers(tokens) });
  const words = await read("text");
  queries.text = words;
  if (view) {
    queries.dar = darQuery(words, view, round);
    queries.adafuse = await run("adafuse", { text: floats(words, 1, words.length),
                                             view: floats(view, 1, view.length) });
  }
  if (packs.dmcl) queries.dmcl = await read("dmcl");
  const found = {};
  for (const [method, query] of Object.entries(queries)) {
    const gallery = packs[method === "dmcl" ? "gallery_dmcl" : "gallery"].values;
    const scores = scoresOf(query, gallery);
    found[method] = { rank: rankOf(scores, target), best: bestOf(scores, count) };
  }
  return { found, cut: tokens.length === facts.context };
}

// ---------------------------------------------------------------- views

// A moment in which messages such as `stop` are read.
const pause = () => new Promise((done) => setTimeout(done, 0));

async function pixelsOf(latents) {
  const { channels, side, scaling } = facts.latents;
  const scaled = latents.map((value) => value / scaling);
  const planes = await run("decode", { z: floats(scaled, 1, channels, side, side) });
  const count = planes.length / 3, pixels = new Uint8ClampedArray(4 * count).fill(255);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = Math.round((planes[c * count + i] / 2 + 0.5) * 255);
  }
  return pixels;
}

async function viewFeature(pixels) {
  const count = pixels.length / 4, side = Math.sqrt(count), planes = new Float32Array(3 * count);
  for (let i = 0; i < count; i++) for (let c = 0; c < 3; c++) planes[c * count + i] = pixels[4 * i + c];
  return run("image", { pixels: floats(planes, 1, 3, side, side) });
}

// A view from noise, step by step; `show` gets what each step takes for the clean picture.
async function draw({ text, seed, steps, guidance }, show) {
  stopped = false;
  const { channels, side } = facts.latents, count = channels * side * side;
  const read = (words) => run("words", { tokens: integers(padded(tokensOf(words, facts.prompt))) });
  const without = await read(""), withWords = await read(text);
  const words = Float32Array.of(...without, ...withWords);
  let z = normal(seed, count), before = new Float32Array(count);
  for (const [step, [time, alpha, sigma, keep, now, then]] of facts.schedules[steps].entries()) {
    await pause();
    if (stopped) return null;
    const t = new ort.Tensor("int64", BigInt64Array.of(BigInt(time), BigInt(time)), [2]);
    const velocity = await run("denoise", {
      x: floats(Float32Array.of(...z, ...z), 2, channels, side, side), t,
      c: floats(words, 2, facts.prompt, words.length / 2 / facts.prompt),
    });
    const guided = z.map((_, i) => velocity[i] + guidance * (velocity[count + i] - velocity[i]));
    const pure = z.map((value, i) => alpha * value - sigma * guided[i]);
    z = z.map((value, i) => keep * value + now * pure[i] + then * before[i]);
    before = pure;
    show({ step: step + 1, pixels: await pixelsOf(pure) });
  }
  const pixels = await pixelsOf(z);
  return { pixels, feature: await viewFeature(pixels) };
}

function padded(tokens) {
  return [...tokens, ...Array(facts.prompt - tokens.length).fill(facts.pad)];
}

// ---------------------------------------------------------------- messages

const calls = {
  load, search, draw,
  tokens: async ({ text }) => encoderTokens(text),
  stop: async () => { stopped = true; },
};

// Answers the messages of a port, one `id` each; what happens on the way comes as `progress`.
export function serve(port) {
  port.onmessage = async ({ data: { id, call, ...options } }) => {
    try {
      const result = await calls[call](options, (progress) => port.postMessage({ id, progress }));
      port.postMessage({ id, result });
    } catch (error) {
      port.postMessage({ id, error: String(error?.message ?? error) });
    }
  };
}

if (typeof WorkerGlobalScope !== "undefined" && self instanceof WorkerGlobalScope) serve(self);
else self.serveExplorer = serve;
