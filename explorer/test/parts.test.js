// The page's arithmetic, with numbers that Python gave.

import assert from "node:assert/strict";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { clean } from "../src/clean.js";
import { heightOf, pathOf } from "../src/curve.js";
import { readWords } from "../src/live.js";
import { normal, twister } from "../src/noise.js";
import { bytesOf, changed, gunzip, halfToFloat, unpack } from "../src/packs.js";
import { bestOf, darQuery, rankOf, scoresOf } from "../src/rank.js";
import { placed, readScene, round, sceneText } from "../src/scenes.js";
import { STRINGS } from "../src/strings.js";
import { newestOnly } from "../src/talk.js";

function asText(bytes) {
  const bits = Array.from(bytes).flatMap((byte) => Array.from({ length: 8 }, (_, i) => (byte >> i) & 1));
  while (bits.length % 7) bits.push(0);
  let text = "";
  for (let i = 0; i < bits.length; i += 7) {
    text += String.fromCharCode(bits.slice(i, i + 7).reduce((sum, bit, k) => sum + (bit << k), 0));
  }
  return text;
}

test("seven bits a character hold any bytes", async () => {
  const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * i) % 251);
  assert.deepEqual(bytesOf(asText(bytes)).subarray(0, 1000), bytes);
  assert.deepEqual(await gunzip(bytesOf(asText(gzipSync(bytes)))), bytes);
});

test("half precision numbers are read as they are", () => {
  for (const [half, value] of [[0x3c00, 1], [0xc000, -2], [0x3555, 0.333251953125], [1, 2 ** -24]]) {
    assert.equal(halfToFloat(half), value);
  }
  assert.equal(halfToFloat(0xfc00), -Infinity);
});

test("a pack gives its facts, its file and its numbers", () => {
  const parts = [{ kind: "half", size: 2 }, { kind: "int8", size: 4, channels: 2, inner: 1 },
                 { kind: "int16", size: 1, scale: 0.5 }, { kind: "float", size: 1 }];
  const header = new TextEncoder().encode(JSON.stringify({ file: 2, parts, more: "told" }));
  const scales = new Uint8Array(Float32Array.of(1, 0.5).buffer);
  const bytes = Uint8Array.of(header.length, header.length >> 8, 0, 0, ...header, 7, 8,
    0, 0, 0x3c, 0xc0, ...scales, 1, 2, 255, 4, 0xfe, 0xff,
    ...new Uint8Array(Float32Array.of(0.25).buffer));
  const { facts, file, values } = unpack(bytes);
  assert.equal(facts.more, "told");
  assert.deepEqual([...file], [7, 8]);
  assert.deepEqual([...values], [1, -2, 1, 1, -1, 2, -1, 0.25]);
});

test("a change is added as it is, or as the product of two factors", () => {
  const base = { values: Float32Array.of(1, 1, 1, 1, 5), parts: [new Float32Array(4), new Float32Array(1)] };
  const parts = [[1, 2], [3, 4], [0.5]].map((numbers) => Float32Array.from(numbers));
  const difference = { parts, facts: { changes: [{ rows: 2, rank: 1 }, { rows: 0 }] } };
  assert.deepEqual([...changed(base, difference)], [4, 5, 7, 9, 5.5]);
});

test("pictures that tie count against the target and stand in order", () => {
  const scores = scoresOf(Float32Array.of(1, 0), Float32Array.of(0, 1, 1, 0, 1, 0, 0.5, 0));
  assert.equal(rankOf(scores, 2), 2);
  assert.equal(rankOf(scores, 0), 4);
  assert.deepEqual(bestOf(scores, 3), [1, 2, 3]);
});

test("DAR trusts the words more at first", () => {
  const [text, view] = [Float32Array.of(1, 0), Float32Array.of(0, 1)];
  const [early, late] = [darQuery(text, view, 1), darQuery(text, view, 2)];
  assert.ok(Math.abs(early[0] - 4 * early[1]) < 1e-6);
  assert.ok(Math.abs(late[0] - Math.SQRT1_2) < 1e-6 && late[0] === late[1]);
});

test("noise is torch's", () => {
  assert.equal(twister(5489)(), 3499211612); // the generator's published first number
  const drawn = normal(3, 768); // torch.randn(1, 12, 8, 8) of that seed
  const first = [-0.076644, 0.359882, -0.782017, 0.071528];
  first.forEach((value, i) => assert.ok(Math.abs(drawn[i] - value) < 1e-5));
  assert.ok(Math.abs(drawn[8] + 0.051681) < 1e-5 && Math.abs(drawn[9] + 0.305976) < 1e-5);
});

test("texts are cleaned as in Python", () => {
  for (const [text, cleaned] of [
    ["  a\t red\n\ncar ", "a red car"], ["“a dog’s”", '"a dog\'s"'], ["ＡＢ　ﬁsh", "AB fish"],
    ["a\u0000b\u0007c", "abc"], ["fish &amp; chips &lt;b&gt;", "fish & chips <b>"], ["\x1b[31mred", "red"],
    ["e\u0301", "é"], ["狗 🐕", "狗 🐕"],
  ]) assert.equal(clean(text), cleaned);
});

const WORLD = {
  place: ["beach"], time: ["day"], weather: ["clear"], colour: ["red"], size: ["small", "large"],
  category: ["dog", "car"], cell: [["left", "front"], ["left", "back"]],
};

test("a scene is read, told and placed", () => {
  const scene = readScene("000" + "0100011" + "0001102", WORLD); // the digits of two objects
  assert.equal(sceneText(scene, WORLD),
    "beach, day, clear; small car left front; large dog left back");
  const sprites = Object.fromEntries(["red", ""].flatMap((colour) => ["small", "large"].map((size) =>
    [`dog-${colour}-${size}`, [0, 0, 10, 8]])));
  Object.assign(sprites, { "car--small": [0, 0, 10, 8] });
  const [first, second] = placed(scene, sprites, 2);
  assert.ok(first.to[1] < second.to[1]); // what stands at the back is drawn first
  assert.deepEqual([0.5, 1.5, -0.5, 2.4].map(round), [0, 2, 0, 2]);
});

test("rank 1 is on top of the curve", () => {
  assert.ok(heightOf(1, 5000) < heightOf(2, 5000));
  assert.match(pathOf([5000, 10, 1], 5000), /^M[\d.]+,[\d.]+L[\d.]+,[\d.]+L[\d.]+,[\d.]+$/);
});

test("lines are rounds, and bad input gives a sentence", () => {
  assert.deepEqual(readWords("a dog\n\n at night "), { text: "a dog, at night", round: 1, notes: [] });
  assert.equal(readWords(" \n").text, "");
  assert.deepEqual(readWords("<b>dog</b>").notes, [STRINGS.markup]);
  const { text, notes } = readWords("x".repeat(100_000));
  assert.equal(text.length, 4000);
  assert.equal(notes.length, 1);
});

test("of what arrives while it works, the newest is done", async () => {
  const done = [];
  const offer = newestOnly(async (value) => { await null; done.push(value); });
  const first = offer(1);
  offer(2);
  offer(3);
  await first;
  await new Promise((later) => setTimeout(later, 5));
  assert.deepEqual(done, [1, 3]);
});
