// Puts the words into the page and starts its parts.

import { at, Gallery } from "./parts.js";
import { startLive } from "./live.js";
import { startPast } from "./past.js";
import { STRINGS } from "./strings.js";
import { ask, need } from "./talk.js";

function picture(source) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error(source));
    image.src = source;
  });
}

async function start() {
  for (const place of document.querySelectorAll("[data-say]")) {
    place.textContent = STRINGS[place.dataset.say];
  }
  const { dialogues, scenes, split, sprites, scale, world, live } = self.PACKS.dialogues;
  const [stages, sheet] = await Promise.all(["stages.webp", "sprites.webp"].map(picture));
  const look = { stages, sheet, sprites, scale, world };
  const galleries = Object.fromEntries(
    Object.entries(scenes).map(([name, codes]) => [name, new Gallery(codes, look)]));
  startPast({ dialogues, split }, galleries, world);
  at("live-missing").hidden = live;
  at("live-parts").hidden = !live;
  if (live) startLive(galleries.test);
  self.EXPLORER = { ask, need }; // for tests, and for readers with a console
  document.body.dataset.ready = "yes";
}

start();
