// The first part: searches that were computed when the book was built, round by round.

import { drawCurve } from "./curve.js";
import { at, make, methodChoice, showBest, showRanks, spokenRanks } from "./parts.js";
import { cellBox } from "./scenes.js";
import { STRINGS } from "./strings.js";

const FIRST = 2; // the picture that is shown first: its search has far to go

export function startPast(data, galleries, world) {
  const state = { dialogue: data.dialogues[0], round: 0, method: "dar" };
  const gallery = () => galleries[data.split[state.dialogue.source]];
  const last = () => state.dialogue.words.length - 1;
  const atRound = (byMethod) =>
    Object.fromEntries(Object.entries(byMethod).map(([method, rows]) => [method, rows[state.round]]));

  function showDialogue() {
    const { source, target, words } = state.dialogue;
    gallery().show(at("target"), target, STRINGS.targetAlt(gallery().text(target)));
    at("view").style.backgroundImage = `url("views-${source}-${target}.webp")`;
    at("said").replaceChildren(...words.map((text) => make("li", { textContent: text })));
    at("round").max = last();
    showRound();
  }

  function showRound() {
    const { dialogue, round } = state, ranks = atRound(dialogue.ranks);
    at("round").value = round;
    at("round-name").textContent = STRINGS.roundOf(round, last());
    at("earlier").disabled = round === 0;
    at("later").disabled = round === last();
    [...at("said").children].forEach((item, index) => {
      item.hidden = index > round;
      if (index === round) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    at("said").scrollTop = at("said").scrollHeight;
    at("caption").textContent = dialogue.captions[round];
    at("view").style.backgroundPosition = `${(100 * round) / last()}% 0`;
    at("view").setAttribute("aria-label", STRINGS.viewAlt(dialogue.captions[round]));
    showCues(dialogue.cues[round]);
    showRanks(at("past-ranks"), ranks, STRINGS.explained);
    const most = gallery().codes.length;
    drawCurve(at("curve"), dialogue.ranks, round, most, { rounds: STRINGS.curveAxis });
    const lines = Object.entries(dialogue.ranks)
      .map(([method, row]) => STRINGS.curveLine(STRINGS.methods[method], row));
    at("curve").setAttribute("aria-label", STRINGS.curveAlt(lines.join(" ")));
    at("past-status").textContent = STRINGS.spoken(round, spokenRanks(ranks));
    showFirst();
  }

  function showFirst() {
    const { dialogue, method, round } = state;
    showBest(at("past-best"), at("past-place"), gallery(), dialogue.best[method][round],
      dialogue.target, dialogue.ranks[method][round]);
  }

  function showCues(cues) {
    at("box").hidden = true;
    const items = cues.map((cue) => {
      const button = make("button", { type: "button" },
        make("b", { textContent: STRINGS.kinds[cue.kind] }), ` ${STRINGS.cue(cue)}`);
      button.onfocus = button.onmouseenter = () => outline(cue);
      button.onblur = button.onmouseleave = () => { at("box").hidden = true; };
      return make("li", {}, button);
    });
    at("cues").replaceChildren(...items);
    if (!items.length) at("cues").append(make("li", { textContent: STRINGS.noCues }));
  }

  // A cue of an object has its cell; one of the scene is about the whole drawing.
  function outline(cue) {
    if (cue.kind === "omitted") return;
    const box = cue.cell === undefined ? { left: 0, top: 0, width: 1, height: 1 }
      : cellBox(cue.cell, world);
    for (const [side, share] of Object.entries(box)) at("box").style[side] = `${100 * share}%`;
    at("box").hidden = false;
  }

  function choose() {
    const of = data.dialogues.filter(({ source }) => source === at("source").value);
    state.dialogue = of.find(({ target }) => target === Number(at("number").value)) ?? of[0];
    state.round = Math.min(state.round, last());
    showDialogue();
  }

  function move(round) {
    state.round = Math.max(0, Math.min(last(), round));
    showRound();
  }

  for (const source of Object.keys(data.split)) {
    at("source").append(make("option", { value: source, textContent: STRINGS.sources[source] }));
  }
  for (const { target } of data.dialogues.filter(({ source }) => source === at("source").value)) {
    at("number").append(
      make("option", { value: target, textContent: STRINGS.pictureNumber(target + 1) }));
  }
  at("number").value = FIRST;
  at("source").onchange = at("number").onchange = choose;
  at("round").oninput = () => move(Number(at("round").value));
  at("earlier").onclick = () => move(state.round - 1);
  at("later").onclick = () => move(state.round + 1);
  at("earlier").setAttribute("aria-label", STRINGS.earlier);
  at("later").setAttribute("aria-label", STRINGS.later);
  methodChoice(at("past-methods"), state.method, (method) => {
    state.method = method;
    showFirst();
  });
  choose();
}
