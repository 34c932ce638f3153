// Scenes from their codes, drawn out of sprites as daitir/scenes/render.py does it.

const UNIT = 64, CENTRES = [12, 32, 52], BASELINES = { front: 62, back: 38 };
const COLUMNS = ["left", "middle", "right"];

// The scene of a code as `scene_code` of precompute.py writes it.
export function readScene(code, world) {
  const [place, time, weather] = code;
  const objects = code.slice(3).match(/.{7}/g) ?? [];
  return {
    place: Number(place), time: Number(time), weather: Number(weather),
    objects: objects.map((part) => {
      const [colour, size, cell, x, y] = Array.from(part.slice(2), Number);
      const [column, row] = world.cell[cell];
      return {
        category: world.category[Number(part.slice(0, 2))], colour: world.colour[colour - 1],
        size: world.size[size], column, row, jitter: [x - 1, y - 1],
      };
    }),
  };
}

export function sceneText(scene, world) {
  const things = scene.objects.map(({ size, colour, category, column, row }) =>
    [size, colour, category, column, row].filter(Boolean).join(" "));
  const stage = [world.place[scene.place], world.time[scene.time], world.weather[scene.weather]];
  return [stage.join(", "), ...things].join("; ");
}

// Python rounds a half to the even number.
export function round(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor & 1) : Math.round(value);
}

// Where in a picture of 64 × scale pixels each sprite stands, those at the back first.
export function placed(scene, sprites, scale) {
  const order = [...scene.objects].sort((a, b) => (a.row === "front") - (b.row === "front"));
  return order.map((item) => {
    const from = sprites[`${item.category}-${item.colour ?? ""}-${item.size}`];
    const centre = CENTRES[COLUMNS.indexOf(item.column)] + item.jitter[0];
    const x = round(centre * scale - from[2] / 2);
    const y = round((BASELINES[item.row] + item.jitter[1]) * scale) - from[3];
    return { from, to: [x, y, from[2], from[3]] };
  });
}

export function drawScene(canvas, scene, { stages, sheet, sprites, scale, world }) {
  const size = UNIT * scale, pen = canvas.getContext("2d");
  canvas.width = canvas.height = size;
  const column = scene.time * world.weather.length + scene.weather;
  pen.drawImage(stages, column * size, scene.place * size, size, size, 0, 0, size, size);
  for (const { from, to } of placed(scene, sprites, scale)) pen.drawImage(sheet, ...from, ...to);
}

// The part of a picture that an object in a cell may fill, in shares of its side.
export function cellBox(cell, world) {
  const [column, row] = world.cell[cell];
  const bottom = BASELINES[row] / UNIT, height = 25 / UNIT, width = 24 / UNIT;
  const left = CENTRES[COLUMNS.indexOf(column)] / UNIT - width / 2;
  return { left: Math.max(0, left), top: bottom - height, width, height };
}
