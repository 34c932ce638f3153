// What both halves of the page show: pictures, ranks by method, and the first ten.

import { drawScene, readScene, sceneText } from "./scenes.js";
import { STRINGS } from "./strings.js";

export const at = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The pictures of a gallery, drawn out of sprites when they are shown.
export class Gallery {
  constructor(codes, look) {
    this.codes = codes.split(" ");
    this.look = look; // stages, sheet, sprites, scale, world
  }

  scene(number) { return readScene(this.codes[number], this.look.world); }

  text(number) { return sceneText(this.scene(number), this.look.world); }

  show(canvas, number, label) {
    drawScene(canvas, this.scene(number), this.look);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
}

// A table of ranks by method; one that has no rank says why.
export function showRanks(table, ranks, explained, missing = "") {
  const head = make("tr", {}, ...[STRINGS.method, STRINGS.rank, ""].map((text) =>
    text ? make("th", { scope: "col", textContent: text }) : make("td")));
  const rows = Object.keys(STRINGS.methods).map((method) => make("tr", {},
    make("th", { scope: "row", className: method, textContent: STRINGS.methods[method] }),
    make("td", { textContent: ranks[method]?.toLocaleString("en") ?? missing[method] ?? missing }),
    make("td", { textContent: explained[method] })));
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

export function spokenRanks(ranks) {
  return Object.entries(ranks)
    .map(([method, rank]) => STRINGS.spokenLine(STRINGS.methods[method], rank)).join(", ");
}

// Buttons that choose by which method pictures are ranked.
export function methodChoice(fieldset, chosen, changed) {
  const choices = Object.entries(STRINGS.methods).map(([method, name]) => {
    const input = make("input", { type: "radio", name: fieldset.id, value: method });
    input.checked = method === chosen;
    input.onchange = () => changed(method);
    return make("label", {}, input, ` ${name}`);
  });
  fieldset.replaceChildren(make("legend", { textContent: STRINGS.bestBy }), ...choices);
}

// The first pictures with the target marked, and a sentence about it.
export function showBest(list, sentence, gallery, best, target, rank) {
  list.replaceChildren(...best.map((number, index) => {
    const isTarget = number === target, canvas = make("canvas");
    gallery.show(canvas, number, STRINGS.place(index + 1, gallery.text(number), isTarget));
    const place = isTarget ? `${index + 1} · ${STRINGS.isTarget}` : String(index + 1);
    return make("li", { className: isTarget ? "is-target" : "" }, canvas,
      make("span", { textContent: place, ariaHidden: "true" }));
  }));
  sentence.textContent = !rank ? ""
    : best.includes(target) ? STRINGS.among(best.indexOf(target) + 1)
    : STRINGS.notAmong(rank.toLocaleString("en"));
}
