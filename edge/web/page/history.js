// The last day as the monitor kept it in; heart rates and alerts of each source on a time line, and a list to choose from, out.

import { axis, band, frame, means, placed } from "./chart.js";
import { draw, make, put } from "./elements.js";
import { badge, lasting, moment, PRIORITIES } from "./words.js";

const HOURS = [1, 6, 24],
  AGAIN_MS = 60000,
  MOST_ROWS = 100;

export function history(place, desk) {
  const page = new HistoryPage(place, desk);
  const timer = setInterval(() => page.load(), AGAIN_MS);
  page.load();
  return {
    title: "History",
    update() {},
    focus: () => page.heading.focus(),
    close: () => {
      clearInterval(timer);
      page.leaving.abort();
    },
  };
}

class HistoryPage {
  constructor(place, desk) {
    Object.assign(this, { place, desk, day: null, hours: 24, rows: MOST_ROWS, leaving: new AbortController() });
    this.heading = make("h1", { tabIndex: -1 }, "History");
    this.note = make("p", { className: "note" }, "Loading …");
    this.lanes = make("div", { className: "lanes" });
    this.source = this.choice("Source");
    this.finding = this.choice("Finding");
    this.priority = this.choice("Priority");
    this.fill(
      this.priority,
      PRIORITIES.map((one) => [one, one]),
    );
    this.list = make("tbody");
    this.more = make("button", { type: "button", onclick: () => this.showMore() }, "Show more");
    const spans = HOURS.map((hours) =>
      make("button", { type: "button", value: String(hours), onclick: () => this.turn(hours) }, hours === 1 ? "1 hour" : `${hours} hours`),
    );
    this.spans = spans;
    const filters = make("div", { className: "filters" }, ...[this.source, this.finding, this.priority].map((one) => one.parentElement));
    const head = make(
      "tr",
      {},
      ...["Began", "Source", "Priority", "Finding", "Lasted", "Acknowledged"].map((name) => make("th", { scope: "col" }, name)),
    );
    const table = make("table", {}, make("thead", {}, head), this.list);
    place.append(
      make("div", { className: "bar" }, this.heading, ...spans, this.note),
      this.lanes,
      make("h2", {}, "Alerts"),
      filters,
      make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Alerts" }, table),
      this.more,
    );
    place.className = "history";
  }

  choice(name) {
    const select = make("select", { onchange: () => this.list && this.showList() }, make("option", { value: "" }, "all"));
    make("label", {}, name, select);
    return select;
  }

  fill(select, options) {
    const chosen = select.value,
      names = JSON.stringify(options);
    if (select.dataset.names === names) return;
    select.dataset.names = names;
    select.replaceChildren(select.firstChild, ...options.map(([value, words]) => make("option", { value }, words)));
    select.value = options.some(([value]) => value === chosen) ? chosen : "";
  }

  turn(hours) {
    this.hours = hours;
    this.load();
  }

  async load() {
    for (const span of this.spans) span.ariaPressed = String(Number(span.value) === this.hours);
    try {
      const answer = await fetch(`/history.json?hours=${this.hours}`, { signal: this.leaving.signal, cache: "no-store" });
      if (!answer.ok) throw new TypeError(`the monitor answered ${answer.status}`);
      this.day = await answer.json();
      this.day.alerts.sort((a, b) => b.onset_time - a.onset_time);
    } catch (error) {
      if (!this.leaving.signal.aborted) put(this.note, `The history cannot be read: ${error.message}.`);
      return;
    }
    keepFocus(this.place, () => this.show());
  }

  show() {
    const { alerts, sources } = this.day,
      ward = this.desk.ward;
    const names = [...new Set([...Object.keys(sources), ...alerts.map((alert) => alert.source)])].sort((a, b) =>
      a.localeCompare(b, "en", { numeric: true }),
    );
    put(this.note, this.day.why ? `No history is kept: ${this.day.why}` : `${moment(this.day.from)} to ${moment(this.day.to)}`);
    this.lanes.replaceChildren(
      ...names.flatMap((name) => this.lane(name)),
      make("span"),
      axis(this.day.from, this.day.to, innerWidth > 900 ? 12 : 5),
    );
    this.fill(
      this.source,
      names.map((name) => [name, name]),
    );
    this.fill(
      this.finding,
      [...new Set(alerts.map((alert) => alert.finding))].map((name) => [name, ward.finding(name).title]),
    );
    this.showList();
  }

  lane(name) {
    const steps = this.day.sources[name]?.heart_rate_bpm ?? [],
      known = steps.filter(Boolean);
    const low = Math.min(...known.map((step) => step[0])),
      high = Math.max(...known.map((step) => step[2]));
    const words = known.length ? `${Math.round(low)} to ${Math.round(high)}/min` : "no heart rate";
    const shapes = steps.length ? [draw("path", { class: "band", d: band(steps) }), draw("path", { class: "mean", d: means(steps) })] : [];
    const link = make("a", { href: `#/source/${encodeURIComponent(name)}` }, name),
      chart = frame(`Heart rate of ${name}: ${words}`, ...shapes);
    const marks = this.day.alerts.filter((alert) => alert.source === name).map((alert) => this.mark(alert));
    return [
      make("p", { className: "of" }, link, make("small", {}, words)),
      make("div", { className: "past" }, chart, make("div", { className: "marks", ariaHidden: "true" }, ...marks)),
    ];
  }

  // The list below holds the same links for those who do not use a mouse.
  mark(alert) {
    const { from, to } = this.day,
      length = to - from,
      begin = Math.min(Math.max(alert.onset_time, from), to),
      end = alert.state === "cleared" ? alert.time : to;
    const title = `${alert.priority}: ${this.desk.ward.finding(alert.finding).title}, ${moment(alert.onset_time)}`;
    const mark = make(
      "a",
      { href: address(alert), className: `event ${alert.priority} ${alert.kind}`, title, tabIndex: -1 },
      make("i", { className: `shape ${alert.priority}` }),
    );
    mark.style.width = `${((100 * Math.max(end - begin, 0)) / length).toFixed(2)}%`;
    return placed(mark, "left", (begin - from) / length);
  }

  showMore() {
    this.rows += MOST_ROWS;
    this.showList();
  }

  showList() {
    const chosen = this.day.alerts.filter((alert) => this.isChosen(alert));
    const rows = chosen.slice(0, this.rows).map((alert) => this.row(alert));
    this.list.replaceChildren(...(rows.length ? rows : [make("tr", {}, make("td", { colSpan: 6 }, "None."))]));
    this.more.hidden = chosen.length <= this.rows;
  }

  isChosen(alert) {
    const fits = (select, value) => !select.value || select.value === value;
    return fits(this.source, alert.source) && fits(this.finding, alert.finding) && fits(this.priority, alert.priority);
  }

  row(alert) {
    const title = make("a", { href: address(alert) }, this.desk.ward.finding(alert.finding).title);
    const end = alert.state === "cleared" ? lasting(alert.time - alert.onset_time) : "on still";
    const cells = [
      moment(alert.onset_time),
      alert.source,
      badge(alert),
      title,
      end,
      alert.acknowledged_by ? `✓ ${alert.acknowledged_by}` : "–",
    ];
    return make("tr", { "data-alert": alert.id }, ...cells.map((cell) => make("td", {}, cell)));
  }
}

const address = (alert) => `#/alert/${encodeURIComponent(alert.id)}`;

// What is made anew each minute must not take the focus from who reads by keyboard.
function keepFocus(place, change) {
  const { activeElement } = document,
    href = place.contains(activeElement) && activeElement.getAttribute("href"),
    isListed = Boolean(activeElement?.closest("table"));
  change();
  if (!href || activeElement.isConnected) return;
  [...place.querySelectorAll("a")].find((a) => a.getAttribute("href") === href && Boolean(a.closest("table")) === isListed)?.focus();
}
