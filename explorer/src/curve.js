// Ranks over the rounds as lines, on a logarithmic scale with the best rank on top.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 420, HEIGHT = 240, LEFT = 44, RIGHT = 12, TOP = 12, BOTTOM = 34;

export function heightOf(rank, most) {
  return TOP + (Math.log(rank) / Math.log(most)) * (HEIGHT - TOP - BOTTOM);
}

export function xOf(round, last) {
  return LEFT + (last ? round / last : 0) * (WIDTH - LEFT - RIGHT);
}

export function pathOf(ranks, most) {
  const last = ranks.length - 1;
  const points = ranks.map((rank, t) => `${xOf(t, last).toFixed(1)},${heightOf(rank, most).toFixed(1)}`);
  return `M${points.join("L")}`;
}

function element(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// `lines` are ranks by method; `current` is the round that is marked.
export function drawCurve(svg, lines, current, most, say) {
  const last = Object.values(lines)[0].length - 1, bottom = HEIGHT - BOTTOM;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  const parts = [];
  for (const rank of [1, 10, 100, 1000, most]) {
    const y = heightOf(rank, most);
    parts.push(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
    const at = { class: "tick", x: LEFT - 6, y: y + 4, "text-anchor": "end" };
    parts.push(element("text", at, rank.toLocaleString("en")));
  }
  for (let t = 0; t <= last; t++) {
    const at = { class: "tick", x: xOf(t, last), y: bottom + 15, "text-anchor": "middle" };
    parts.push(element("text", at, String(t)));
  }
  const middle = { class: "tick", x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, "text-anchor": "middle" };
  parts.push(element("text", middle, say.rounds));
  const x = xOf(current, last);
  parts.push(element("line", { class: "now", x1: x, x2: x, y1: TOP, y2: bottom }));
  for (const [method, ranks] of Object.entries(lines)) {
    parts.push(element("path", { class: `line ${method}`, d: pathOf(ranks, most) }));
    const dot = { class: `dot ${method}`, cx: x, cy: heightOf(ranks[current], most), r: 4 };
    parts.push(element("circle", dot));
  }
  svg.replaceChildren(...parts);
}
