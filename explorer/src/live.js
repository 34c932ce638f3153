// The second and the third part: the reader's own words, and drawings of them.

import { at, make, methodChoice, showBest, showRanks, spokenRanks } from "./parts.js";
import { STRINGS } from "./strings.js";
import { ask, need, newestOnly } from "./talk.js";

const MOST_CHARACTERS = 4000, TOP = 10, VIEW_SIDE = 64;
const WORDS = ["wasm", "facts", "text", "gallery", "adafuse", "dmcl", "gallery_dmcl"];
const FUSED = ["dar", "adafuse"];
const DRAWING = ["words", "denoise", "decode", "image"];

// What was typed, as a caption: a line is a round, and lines are joined as LiveSearch joins them.
export function readWords(typed) {
  const notes = [];
  if (typed.length > MOST_CHARACTERS) notes.push(STRINGS.long(MOST_CHARACTERS));
  if (/<[a-z/!]/i.test(typed)) notes.push(STRINGS.markup);
  const lines = typed.slice(0, MOST_CHARACTERS).split("\n").map((line) => line.trim());
  const said = lines.filter((line) => line);
  return { text: said.join(", "), round: Math.max(0, said.length - 1), notes };
}

function ranksOf(found) {
  return Object.fromEntries(Object.entries(found).map(([method, { rank }]) => [method, rank]));
}

export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 100000;
}

export function startLive(gallery) {
  const state = { target: 0, method: "text", found: {}, drawing: null, failed: false };

  function showFound() {
    const { found, target } = state, ranks = ranksOf(found);
    const missing = { text: "–", dmcl: "–", dar: STRINGS.needsView, adafuse: STRINGS.needsView };
    showRanks(at("live-ranks"), ranks, STRINGS.explainedLive, missing);
    at("live-status").textContent = found.text ? STRINGS.spokenLive(spokenRanks(ranks)) : "";
    for (const input of at("live-methods").querySelectorAll("input")) {
      input.disabled = !found[input.value] && input.value !== "text";
      input.checked = input.value === (found[state.method] ? state.method : "text");
    }
    const { best = [], rank } = found[state.method] ?? found.text ?? {};
    showBest(at("live-best"), at("live-place"), gallery, best, target, rank);
    if (!best.length) at("live-place").textContent = STRINGS.waiting;
  }

  function asked(text, view) {
    const { round } = readWords(at("words").value);
    return { text, round, view, target: state.target, count: TOP };
  }

  const search = newestOnly(async () => {
    const { text, notes } = readWords(at("words").value);
    if (!text) {
      state.found = {};
      at("live-note").textContent = STRINGS.empty;
      return showFound();
    }
    try {
      if (!state.ready) at("live-note").textContent = STRINGS.loading;
      await need(...WORDS);
      state.ready = true;
      const { found, cut } = await ask("search", asked(text, state.drawing?.feature));
      state.found = found;
      at("live-note").textContent = [...notes, ...(cut ? [STRINGS.cut] : [])].join(" ");
      if (state.drawing && state.drawing.text !== text) at("draw-note").textContent = STRINGS.stale;
      showFound();
    } catch (error) {
      at("live-note").textContent = STRINGS.failed(error.message);
    }
  });

  function another() {
    state.target = Math.floor(Math.random() * gallery.codes.length);
    showTarget();
    search();
  }

  function showTarget() {
    gallery.show(at("sought"), state.target, STRINGS.targetAlt(gallery.text(state.target)));
  }

  // ---------------------------------------------------------------- drawings

  function paint(canvas, pixels) {
    canvas.width = canvas.height = VIEW_SIDE;
    canvas.getContext("2d").putImageData(new ImageData(pixels, VIEW_SIDE, VIEW_SIDE), 0, 0);
  }

  async function drawOne(options) {
    const large = make("canvas", { width: VIEW_SIDE, height: VIEW_SIDE });
    const strip = make("div", { className: "strip", ariaHidden: "true" });
    large.setAttribute("role", "img");
    large.setAttribute("aria-label", STRINGS.drawingAlt(options.seed, options.text));
    const figure = make("figure", {}, large, strip);
    at("drawings").append(figure);
    const drawing = await ask("draw", options, ({ step, pixels }) => {
      paint(large, pixels);
      const small = make("canvas");
      paint(small, pixels);
      strip.append(small);
      at("draw-note").textContent = STRINGS.drawing(step, options.steps);
    });
    if (!drawing) {
      figure.remove();
      return null;
    }
    paint(large, drawing.pixels);
    const choice = make("input", { type: "radio", name: "drawing" });
    const chosen = { ...options, feature: drawing.feature };
    const choose = () => {
      state.drawing = chosen;
      for (const other of at("drawings").children) other.classList.toggle("chosen", other === figure);
      search();
    };
    choice.onchange = choose;
    const told = make("p", { className: "note" });
    figure.append(make("label", {}, choice, ` ${STRINGS.use(options.seed)}`), told);
    const { found } = await ask("search", asked(options.text, drawing.feature));
    const fused = Object.entries(found).filter(([method]) => FUSED.includes(method));
    told.textContent = STRINGS.drawingRanks(spokenRanks(ranksOf(Object.fromEntries(fused))));
    return { choose, choice };
  }

  async function draw(count) {
    const { text } = readWords(at("words").value);
    if (!text) {
      at("draw-note").textContent = STRINGS.empty;
      at("words").focus();
      return;
    }
    const first = Math.min(2 ** 32 - 1, Math.max(0, Math.floor(Number(at("seed").value)) || 0));
    at("seed").value = first;
    const options = { text, steps: Number(at("steps").value), guidance: Number(at("guidance").value) };
    busy(true);
    at("drawings").replaceChildren();
    state.drawing = null;
    try {
      at("draw-note").textContent = STRINGS.loadingDraw;
      await need(...WORDS, ...DRAWING);
      const begun = performance.now();
      let drawn = null;
      for (let i = 0; i < count && !state.stopped; i++) {
        const next = await drawOne({ ...options, seed: first + i });
        if (!drawn && next) {
          drawn = next;
          next.choice.checked = true;
          state.method = "dar";
          next.choose();
        }
      }
      const seconds = ((performance.now() - begun) / 1000).toFixed(1);
      at("draw-note").textContent = state.stopped ? STRINGS.stopped : STRINGS.drawn(seconds);
    } catch (error) {
      at("draw-note").textContent = STRINGS.failed(error.message);
    }
    busy(false);
  }

  function busy(is) {
    state.stopped = false;
    at("draw").disabled = at("draw-four").disabled = is;
    at("stop").disabled = !is;
    if (is) at("stop").focus();
    else if (document.activeElement === document.body) at("draw").focus();
  }

  function stop() {
    state.stopped = true;
    at("draw-note").textContent = STRINGS.stopped;
    ask("stop");
  }

  at("words").placeholder = STRINGS.example;
  at("words").onfocus = () => need(...WORDS).catch(() => {}); // ready before the first word
  at("words").oninput = search;
  at("another").onclick = another;
  at("draw").onclick = () => draw(1);
  at("draw-four").onclick = () => draw(4);
  at("stop").onclick = stop;
  at("new-seed").onclick = () => { at("seed").value = randomSeed(); };
  for (const name of ["steps", "guidance"]) {
    const tell = () => { at(`${name}-name`).textContent = at(name).value; };
    at(name).oninput = tell;
    tell();
  }
  methodChoice(at("live-methods"), state.method, (method) => {
    state.method = method;
    showFound();
  });
  showTarget();
  showFound();
}
