// The health of the monitor in; a table of its sources, its parts in words, and the settings of this browser out.

import { arrange, make, put, setClass } from "./elements.js";
import { settingsForm } from "./preferences.js";
import { clock, inWords, lasting, whole } from "./words.js";

const COLUMNS = ["Source", "State", "Leads", "Rate", "Drift", "Lost", "Waiting"];

export function health(place, desk) {
  const heading = make("h1", { tabIndex: -1 }, "Health"),
    rows = new Map(),
    facts = make("dl", { className: "facts grid" }),
    body = make("tbody");
  const head = make("thead", {}, make("tr", {}, ...COLUMNS.map((name) => make("th", { scope: "col" }, name))));
  const table = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Sources" }, make("table", {}, head, body));
  const form = settingsForm(desk),
    leave = make("form", { method: "post", action: "/logout" }, make("button", {}, "Log out"));
  let before = null,
    cells = new Map();
  place.append(
    make("div", { className: "bar" }, heading),
    facts,
    make("h2", {}, "Sources"),
    table,
    make("h2", {}, "Settings of this browser"),
    form.root,
    leave,
  );
  place.className = "health";

  function update() {
    before = pace(desk.ward.health, before);
    cells = tell(facts, cells, parts(desk, before));
    const names = [...desk.ward.sources.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    arrange(body, rows, names, (name) => row(name));
    for (const [name, one] of rows) one.update(desk.ward.sources.get(name).told);
    form.update();
    leave.hidden = !desk.ward.hello?.login;
  }

  return { title: "Health", update, focus: () => heading.focus(), close() {} };
}

// Windows a second, over the last few seconds.
function pace(now, before) {
  if (!now || before?.now === now) return before;
  const spent_s = before ? now.time - before.now.time : 0;
  return { now, rate: spent_s > 0 ? (now.windows - before.now.windows) / spent_s : null };
}

function parts({ ward, connection }, paced) {
  const { hello } = ward,
    now = paced?.now;
  const broker = now ? ({ true: "✓ connected", false: "✕ cannot be reached" }[String(now.broker)] ?? "none") : "–";
  const live = connection.state === "live",
    since_s = connection.since_ms / 1000;
  return [
    ["Connection", `${live ? "✓ live" : "✕ not live"} since ${clock(since_s)}, for ${lasting(Date.now() / 1000 - since_s)}`],
    ["Monitor", hello ? `${hello.name || "cardiogloss"} ${hello.version}, site ${hello.site}` : "–"],
    [
      "Scoring",
      now
        ? now.alive
          ? `✓ alive, ${paced.rate === null ? "–" : paced.rate.toFixed(1)} windows a second`
          : "✕ what waits is not being scored"
        : "–",
    ],
    ["Model", hello ? `${hello.bundle}, windows of ${hello.window_s} s every ${hello.hop_s} s` : "–"],
    ["Broker", broker],
    ["Messages", counts(now?.messages)],
    ["Outbox", counts(now?.outbox)],
    ["History", now?.history?.problem ? `✕ ${now.history.problem}` : counts(now?.history)],
    ["Since the start", now ? `${whole(now.windows)} windows, ${whole(now.crashes)} faults, ${whole(now.reloads)} reloads` : "–"],
    ["Viewers", whole(now?.viewers)],
  ];
}

function counts(of) {
  const told = Object.entries(of ?? {}).filter(([, value]) => value !== null && typeof value !== "object");
  return told.length
    ? told.map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? whole(value) : value}`).join(", ")
    : "–";
}

function tell(list, cells, told) {
  if (!cells.size) {
    cells = new Map(told.map(([name]) => [name, make("dd")]));
    list.append(...[...cells].map(([name, dd]) => make("div", {}, make("dt", {}, name), dd)));
  }
  for (const [name, words] of told) {
    put(cells.get(name), words);
    setClass(cells.get(name), words.startsWith("✕") ? "bad" : "");
  }
  return cells;
}

function row(name) {
  const cells = COLUMNS.slice(1).map(() => make("td"));
  const root = make("tr", {}, make("th", { scope: "row" }, make("a", { href: `#/source/${encodeURIComponent(name)}` }, name)), ...cells);
  function update(told) {
    const sign = told.state === "online" ? "✓" : "✕",
      why = told.why ? `: ${told.why}` : "";
    const state = `${sign} ${inWords(told.state)}${why}${told.required ? "" : " (discovered)"}`;
    const rate = told.rate_hz
      ? `${told.rate_hz.toFixed(0)} Hz${told.rate_measured_hz ? `, measured ${told.rate_measured_hz.toFixed(2)}` : ""}`
      : "–";
    const drift = told.drift_ppm === null || told.drift_ppm === undefined ? "–" : `${told.drift_ppm.toFixed(0)} ppm`;
    const words = [state, told.leads.join(" ") || "–", rate, drift, whole(told.lost), `${whole(told.waiting_bytes)} bytes`];
    cells.forEach((cell, i) => put(cell, words[i]));
    setClass(cells[0], told.state === "online" ? "" : "bad");
  }
  return { root, update };
}
