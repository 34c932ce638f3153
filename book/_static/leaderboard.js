// Filters and sorts the leaderboard in the browser; the table below it stands without this script.
(() => {
  const store = document.getElementById("leaderboard-data");
  if (!store) return;
  const { names, rows, ties, metrics, first } = JSON.parse(store.textContent);
  const box = document.getElementById("leaderboard-table");
  const keys = ["benchmark", "encoder", "query", "text", "noise", "rival", "metric", "seeds"];
  const data = rows.map((row) => {
    const one = { round: row[8], value: row[9], low: row[10], high: row[11], detectable: row[12] };
    keys.forEach((key, i) => { one[key] = names[{ rival: "full", seeds: "num_seeds" }[key] ?? key][row[i]]; });
    return one;
  });
  const rivals = [...new Set(data.map((r) => r.rival.split(",")[0]).filter(Boolean))];
  const choices = {
    benchmark: { label: "dialogues", options: names.benchmark },
    text: { label: "text", options: names.text.filter((t) => t !== "none") },
    noise: { label: "noise of the views", options: ["new", "kept"] },
    rival: { label: "gain over", options: rivals },
    round: { label: "round", options: [...new Set(data.map((r) => r.round))].sort((a, b) => a - b) },
    metric: { label: "metric", options: Object.keys(metrics), show: metrics },
    encoder: { label: "encoder", options: ["all", ...names.encoder] },
  };
  // The protocol stands in the address, as #text=raw_dialogue&noise=kept, so that one can link to it.
  const address = new URLSearchParams(location.hash.slice(1));
  const chosen = { ...first, rival: "zero_shot+text", encoder: "all" };
  for (const [key, { options }] of Object.entries(choices)) {
    const option = options.find((o) => String(o) === address.get(key));
    if (option !== undefined) chosen[key] = option;
  }
  const plain = { mrr: 1, bri: 1 };
  let sorted = { column: "value", down: true };

  const number = (n, signed) => {
    const scaled = plain[chosen.metric] ? n / 1e4 : n / 100;
    const text = Math.abs(scaled).toFixed(plain[chosen.metric] ? 3 : 1);
    return (scaled < 0 ? "−" : signed ? "+" : "") + text;
  };
  const interval = (r, signed) => r === undefined ? "" :
    `${number(r.value, signed)} [${number(r.low, signed)}, ${number(r.high, signed)}]`;
  const place = (r) => [r.encoder, r.query, r.text, r.noise].join("|");

  function asked() {
    const inside = data.filter((r) => r.benchmark === chosen.benchmark && r.round === chosen.round
      && [chosen.text, "none"].includes(r.text) && [chosen.noise, "none", "both"].includes(r.noise)
      && (chosen.encoder === "all" || r.encoder === chosen.encoder));
    const gains = new Map();
    for (const r of inside) {
      const [rival, noise] = r.rival.split(", ");
      const same = !noise || noise.startsWith(chosen.noise);
      if (r.metric === `${chosen.metric}_gain` && rival === chosen.rival && same) {
        gains.set(place(r), r);
      }
    }
    const group = `tie_group_of_${chosen.metric} (${chosen.text}, ${chosen.noise})`;
    return inside.filter((r) => r.metric === chosen.metric && !r.rival).map((r) => {
      const gain = gains.get(place(r));
      const tie = [chosen.benchmark, place(r), group].join("|");
      return { ...r, row: r, gain,
        gained: gain ? gain.value : -Infinity, tie: chosen.round === 10 ? ties[tie] ?? "" : "" };
    });
  }

  const columns = [
    ["encoder", "encoder", (r) => r.encoder], ["query", "query", (r) => r.query],
    ["text", "text", (r) => r.text], ["noise", "noise", (r) => r.noise],
    ["seeds", "seeds", (r) => r.seeds], ["value", "value", (r) => interval(r.row)],
    ["gained", "gain", (r) => interval(r.gain, true)],
    ["detectable", "least to be found", (r) => r.gain ? number(r.gain.detectable) : ""],
    ["tie", "tie group", (r) => r.tie],
  ];

  function draw() {
    const list = asked().sort((a, b) => {
      const [x, y] = [a[sorted.column], b[sorted.column]];
      return (x < y ? -1 : x > y ? 1 : 0) * (sorted.down ? -1 : 1);
    });
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = `${list.length} queries: ${metrics[chosen.metric]} at round `
      + `${chosen.round}, ${chosen.benchmark} dialogues; shares in percent, gains in points.`;
    const head = table.createTHead().insertRow();
    for (const [key, label] of columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      const button = document.createElement("button");
      button.textContent = label;
      button.type = "button";
      if (sorted.column === key) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      button.onclick = () => {
        sorted = { column: key, down: sorted.column === key ? !sorted.down : true };
        draw();
      };
      cell.append(button);
      head.append(cell);
    }
    const body = table.createTBody();
    for (const r of list) {
      const line = body.insertRow();
      for (const [, , text] of columns) line.insertCell().textContent = text(r);
    }
    const holder = box.querySelector(".leaderboard-box");
    holder.replaceChildren(table);
  }

  const form = document.createElement("form");
  form.className = "leaderboard-form";
  form.onsubmit = (event) => event.preventDefault();
  for (const [key, { label, options, show }] of Object.entries(choices)) {
    const wrapper = document.createElement("label");
    wrapper.textContent = label;
    const select = document.createElement("select");
    for (const option of options) select.add(new Option(show ? show[option] : option, option));
    select.value = chosen[key];
    select.onchange = () => {
      chosen[key] = key === "round" ? Number(select.value) : select.value;
      location.replace(`#${new URLSearchParams(chosen)}`);
      draw();
    };
    wrapper.append(select);
    form.append(wrapper);
  }
  box.prepend(form);
  draw();
})();
