// The ward in; a tile for each source, as large as fits, out: heart rate, strips, state and the most urgent alert.

import { arrange, make, put, setClass } from "./elements.js";
import { badge, bpm, inWords } from "./words.js";

const SHAPE = 2.1,
  LEAST_HIGH_PX = 150,
  LEAST_WIDE_PX = 250,
  PAPER_SHARE = 0.68,
  STRIP_PX = 105,
  MOST_STRIPS = 3,
  GAP_PX = 8;
const STEPS = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: (columns) => -columns, ArrowDown: (columns) => columns };

export function wall(place, desk) {
  const page = new WallPage(place, desk);
  return {
    title: "Wall",
    update: () => page.update(),
    key: (event) => page.step(event),
    alert: () => page.chosen(),
    focus: (name) => (page.tiles.get(name)?.link ?? page.heading).focus(),
    close: () => page.close(),
  };
}

class WallPage {
  constructor(place, desk) {
    Object.assign(this, { place, desk, tiles: new Map(), names: [], columns: 1, room: null });
    this.grid = make("div", { className: "wall", role: "list" });
    this.empty = make("p", { className: "empty" }, "No source has sent anything yet.");
    this.sort = make("button", { type: "button", onclick: () => this.turnSort() }, "Alerts first");
    this.heading = make("h1", { tabIndex: -1, className: "quiet" }, "Wall");
    this.sum = make("p", { className: "sum" });
    place.append(make("div", { className: "bar" }, this.heading, this.sum, this.sort), this.grid, this.empty);
    this.sizes = new ResizeObserver(() => requestAnimationFrame(() => this.measure()));
    this.sizes.observe(place);
  }

  turnSort() {
    this.desk.settings.set("alerts_first", !this.desk.settings.get("alerts_first"));
  }

  update() {
    const { grid, tiles, desk } = this;
    this.names = ordered(desk);
    this.empty.hidden = this.names.length > 0;
    this.sort.ariaPressed = String(desk.settings.get("alerts_first"));
    put(this.sum, summed(desk));
    const create = (name) => new Tile(name, desk),
      drop = (tile) => tile.close();
    arrange(grid, tiles, this.names, create, drop);
    const strips = this.room ? this.lay() : 0;
    for (const tile of tiles.values()) tile.update(strips);
  }

  // Read when the size changes, and not each time: reading it makes the browser lay out the page.
  measure() {
    const { grid, place } = this;
    this.room = { wide: grid.clientWidth, high: place.clientHeight - grid.offsetTop + place.offsetTop };
    this.update();
  }

  // How many strips each tile has room for.
  lay() {
    const { columns, high, strips } = fitted(this.names.length || 1, this.room.wide, this.room.high);
    this.columns = columns;
    this.grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    this.grid.style.gridAutoRows = `${Math.floor(high)}px`;
    return strips;
  }

  step(event) {
    const at = this.names.findIndex((name) => this.tiles.get(name).link === document.activeElement);
    const by = STEPS[event.key]?.(this.columns),
      next = at < 0 ? 0 : at + by;
    if (by === undefined || !this.names[next]) return false;
    this.tiles.get(this.names[next]).link.focus();
    return true;
  }

  // None but where a tile holds the focus: a key must not acknowledge what nobody looks at.
  chosen() {
    const name = document.activeElement?.dataset.source,
      alerts = name ? this.desk.ward.alertsOf(name) : [];
    return alerts.find((alert) => !alert.acknowledged_by) ?? alerts[0];
  }

  close() {
    this.sizes.disconnect();
    this.tiles.forEach((tile) => tile.close());
  }
}

/** Columns, rows' height and strips a tile where `count` tiles are as large as fits into `wide` x `high` pixels. */
export function fitted(count, wide, high) {
  const most = Math.max(Math.floor((wide + GAP_PX) / (LEAST_WIDE_PX + GAP_PX)), 1);
  const sized = Array.from({ length: Math.min(count, most) }, (_, i) => size(count, i + 1, wide, high));
  const { columns, height } = sized.reduce((best, one) => (one.side > best.side ? one : best));
  const tall = Math.max(height, LEAST_HIGH_PX);
  return { columns, high: tall, strips: Math.min(Math.max(Math.floor((PAPER_SHARE * tall) / STRIP_PX), 1), MOST_STRIPS) };
}

function size(count, columns, wide, high) {
  const rows = Math.ceil(count / columns),
    height = (high - GAP_PX * (rows - 1)) / rows,
    width = (wide - GAP_PX * (columns - 1)) / columns;
  return {
    columns,
    height,
    side: Math.min(width, SHAPE * Math.max(height, LEAST_HIGH_PX)) - (height < LEAST_HIGH_PX ? LEAST_HIGH_PX - height : 0),
  };
}

function ordered({ ward, settings }) {
  const names = [...ward.sources.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  if (!settings.get("alerts_first")) return names;
  const urgent = ward.alertsOf().map((alert) => alert.source);
  const rank = (name) => (urgent.includes(name) ? urgent.indexOf(name) : Infinity);
  return names.sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
}

function summed({ ward, connection }) {
  if (connection.state !== "live") return "not live";
  const states = [...ward.sources.values()].map((source) => source.told.state),
    live = states.filter((state) => state === "online").length;
  const quiet = states.length - live;
  return `${live} live${quiet ? `, ${quiet} without signal` : ""}`;
}

class Tile {
  constructor(name, desk) {
    Object.assign(this, { name, desk, strips: [], alertKey: "" });
    this.label = make("span", { className: "name" }, name);
    this.state = make("span", { className: "state" });
    this.rate = make("b", { className: "rate" });
    this.paper = make("span", { className: "strips" });
    this.alerts = make("span", { className: "alerts" });
    this.faults = make("span", { className: "faults" });
    const unit = make("span", { className: "unit" }, make("span", { className: "said" }, "heart rate "), "/min");
    const head = make(
      "span",
      { className: "head" },
      make("span", { className: "who" }, this.label, this.state, this.faults),
      make("span", { className: "pulse" }, this.rate, unit),
    );
    this.link = make("a", { href: `#/source/${encodeURIComponent(name)}`, "data-source": name }, head, this.paper, this.alerts);
    this.root = make("div", { role: "listitem", className: "slot" }, this.link);
  }

  update(strips) {
    const { ward } = this.desk,
      source = ward.sources.get(this.name);
    if (!source) return;
    const alerts = ward.alertsOf(this.name),
      isLive = source.told.state === "online";
    const worst = alerts.find((alert) => alert.kind !== "technical" || alert.priority !== "low");
    setClass(this.link, `tile ${source.told.state} ${worst ? worst.priority : "none"}${worst && !worst.acknowledged_by ? " fresh" : ""}`);
    put(this.state, isLive ? this.desk.behind(this.name) : inWords(source.told.state));
    put(this.rate, isLive ? bpm(source.vitals?.heart_rate_bpm) : "– –");
    this.showAlerts(alerts);
    this.showStrips(ward.leadsOf(this.name).slice(0, strips));
  }

  // The worst of the heart, and the worst of the signal apart from it.
  showAlerts(alerts) {
    const key = JSON.stringify(alerts.map((alert) => [alert.id, alert.priority, alert.acknowledged_by]));
    if (key === this.alertKey) return;
    this.alertKey = key;
    const of = (isTechnical) => alerts.filter((alert) => (alert.kind === "technical") === isTechnical);
    this.alerts.replaceChildren(...this.line(of(false)));
    this.faults.replaceChildren(...this.line(of(true)));
  }

  line([alert, ...others]) {
    if (!alert) return [];
    const { title } = this.desk.ward.finding(alert.finding),
      seen = alert.acknowledged_by ? " ✓" : "",
      more = others.length ? ` +${others.length}` : "";
    const what = make("span", { className: "what" }, title),
      rest = make("span", { className: "more" }, more, seen);
    const line = make("span", { className: `alert ${alert.priority} ${alert.kind}`, "data-alert": alert.id }, badge(alert), what, rest);
    line.style.setProperty("--letters", alert.priority.length + title.length + more.length + seen.length + 4);
    return [line];
  }

  showStrips(leads) {
    if (this.strips.map((strip) => strip.lead).join() === leads.join()) return;
    this.close();
    this.paper.replaceChildren();
    this.strips = leads.map((lead) => this.desk.strip(this.paper.appendChild(make("span", { className: "ecg" })), this.name, lead));
  }

  close() {
    this.strips.forEach((strip) => this.desk.drop(strip));
    this.strips = [];
  }
}
