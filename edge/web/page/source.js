// One source of the ward in; its strips, heart rate, signal, findings and alerts out.

import { alertCard } from "./card.js";
import { Bars } from "./bars.js";
import { axis, frame, line } from "./chart.js";
import { arrange, draw, make, put, setClass } from "./elements.js";
import { bpm, inWords, quality } from "./words.js";

const TREND_S = 900,
  APART_S = 6,
  MANY = 4,
  TALLEST_MM = 75,
  MINUTE_S = 60;

export function source(place, desk, name) {
  const page = new SourcePage(place, desk, name);
  return {
    title: name,
    update: () => page.update(),
    alert: () => page.alertToAcknowledge(),
    focus: () => page.heading.focus(),
    close: () => {
      page.leaving.abort();
      page.close();
    },
  };
}

class SourcePage {
  constructor(place, desk, name) {
    Object.assign(this, { desk, name, strips: [], boxes: new Map(), cards: new Map(), chips: new Map(), drawn_s: 0 });
    this.heading = make("h1", { tabIndex: -1 }, name);
    this.state = make("p", { className: "state" });
    this.rate = make("b", { className: "rate" });
    this.choice = make("fieldset", { className: "leads" }, make("legend", {}, "Leads"));
    this.all = make("button", { type: "button", onclick: () => this.chooseAll() }, "All");
    this.scale = make("span", { className: "note scale" });
    this.paper = make("div", { className: "papers" });
    this.trend = make("div", { className: "trend" });
    this.alerts = make("div", { className: "cards" });
    this.calm = make("p", { className: "note" }, "No alert is on.");
    this.signal = make("ul", { className: "chips" });
    this.bars = new Bars(desk.ward);
    this.sort = make("button", { type: "button", onclick: () => this.turnSort() });
    this.leaving = new AbortController();
    this.past = [];
    place.append(this.left(), this.right());
    this.remember();
    place.className = "source";
  }

  left() {
    const back = make("a", { href: "#/", className: "button" }, "← Wall");
    const head = make("div", { className: "bar" }, back, this.heading, this.state, this.choice, this.scale);
    return make(
      "section",
      { className: "left", ariaLabel: "Strips" },
      head,
      this.paper,
      make("h2", {}, "Heart rate of the last quarter of an hour"),
      this.trend,
    );
  }

  right() {
    const pulse = make("p", { className: "pulse" }, this.rate, make("span", { className: "unit" }, "/min"));
    const findings = make("div", { className: "bar" }, make("h2", {}, "Findings"), this.sort);
    const legend = make(
      "p",
      { className: "note legend" },
      make("i", { className: "mark raise" }),
      " raised from here ",
      make("i", { className: "mark clear" }),
      " cleared below",
    );
    return make(
      "section",
      { className: "right", ariaLabel: "Figures" },
      make("h2", {}, "Heart rate"),
      pulse,
      make("h2", {}, "Alerts"),
      this.alerts,
      this.calm,
      make("h2", {}, "Signal"),
      this.signal,
      findings,
      this.bars.root,
      legend,
    );
  }

  update() {
    const known = this.desk.ward.sources.get(this.name),
      isLive = known?.told.state === "online";
    this.showState(known?.told);
    put(this.rate, isLive ? bpm(known.vitals?.heart_rate_bpm) : "– –");
    this.showAlerts();
    if (!known) return;
    this.showChoice(known.told.leads);
    this.showStrips(this.chosen());
    this.showSignal(isLive ? (known.vitals?.quality ?? {}) : {});
    const none = isLive ? "No window has been scored yet." : "No scores without a signal.";
    this.bars.update(isLive ? known.scores : null, this.desk.settings.get("findings_by"), none);
    put(this.sort, this.desk.settings.get("findings_by") === "name" ? "By probability" : "By name");
    this.showTrend(known.trend);
  }

  showState(told) {
    const behind = this.desk.behind(this.name),
      words = told ? [inWords(told.state), told.why, behind].filter(Boolean).join(": ") : "no such source";
    put(this.state, words);
    setClass(this.state, `state ${behind ? "late" : (told?.state ?? "offline")}`);
  }

  chosen() {
    return this.desk.ward.leadsOf(this.name, this.desk.settings.get("leads"));
  }

  showAlerts() {
    const alerts = this.desk.ward.alertsOf(this.name),
      byId = new Map(alerts.map((alert) => [alert.id, alert]));
    this.calm.hidden = alerts.length > 0;
    arrange(this.alerts, this.cards, [...byId.keys()], (id) => alertCard(byId.get(id), this.desk));
    for (const [id, card] of this.cards) card.update(byId.get(id));
  }

  showChoice(leads) {
    if ([...this.boxes.keys()].join() !== leads.join()) this.makeChoice(leads);
    const chosen = this.chosen();
    for (const [lead, box] of this.boxes) box.checked = chosen.includes(lead);
  }

  makeChoice(leads) {
    this.boxes = new Map(leads.map((lead) => [lead, make("input", { type: "checkbox", onchange: () => this.choose() })]));
    const labels = [...this.boxes].map(([lead, box]) => make("label", {}, box, lead));
    this.choice.replaceChildren(this.choice.firstChild, ...labels, ...(leads.length > 1 ? [this.all] : []));
  }

  choose() {
    const leads = [...this.boxes].filter(([, box]) => box.checked).map(([lead]) => lead);
    this.desk.settings.set("leads", leads.length ? leads : null);
    this.update();
  }

  chooseAll() {
    const isAll = this.chosen().length === this.boxes.size;
    this.desk.settings.set("leads", isAll ? null : [...this.boxes.keys()]);
    this.update();
  }

  showStrips(leads) {
    const settings = this.desk.settings,
      isOther = this.strips.some((strip) => strip.gain && strip.gain !== settings.get("gain"));
    const gain = `${settings.get("gain")} mm/mV${isOther ? " unless said" : ""}`;
    put(this.scale, `${settings.get("speed")} mm/s · ${gain} · from ${settings.get("baseline_hz")} Hz`);
    if (this.strips.map((one) => one.lead).join() === leads.join()) return;
    this.close();
    const columns = leads.length > MANY ? 2 : 1;
    const rows = Math.ceil(leads.length / columns);
    this.paper.style.gridTemplateRows = `repeat(${rows}, minmax(0, 1fr))`;
    this.paper.style.maxHeight = `${rows * TALLEST_MM * settings.get("px_per_mm")}px`;
    setClass(this.paper, `papers ${columns > 1 ? "two" : "one"}`);
    this.paper.replaceChildren();
    this.strips = leads.map((lead) => this.desk.strip(this.paper.appendChild(make("div", { className: "ecg" })), this.name, lead));
  }

  showSignal(states) {
    arrange(this.signal, this.chips, Object.keys(states), (lead) => {
      const words = make("span");
      return { root: make("li", {}, make("b", {}, lead), " ", words), words };
    });
    for (const [lead, chip] of this.chips) {
      put(chip.words, quality(states[lead]));
      setClass(chip.root, states[lead] === "good" ? "good" : "bad");
    }
  }

  // What was before this page was opened.
  async remember() {
    try {
      const answer = await fetch(`/history.json?hours=${TREND_S / 3600}&source=${encodeURIComponent(this.name)}`, {
        signal: this.leaving.signal,
        cache: "no-store",
      });
      const day = await answer.json(),
        steps = day.sources[this.name]?.heart_rate_bpm ?? [];
      this.past = steps.map((step, i) => [day.from + (i + 0.5) * day.step_s, step ? step[1] : NaN]);
    } catch {
      /* a trend that begins now */
    }
  }

  showTrend(trend) {
    const now_s = this.desk.ward.now();
    if (now_s - this.drawn_s < 2) return;
    this.drawn_s = now_s;
    const from_s = now_s - TREND_S,
      seen = trend.since(from_s),
      begun_s = seen[0]?.[0] ?? now_s;
    const past = this.past.filter(([time_s]) => time_s > from_s && time_s < begun_s);
    const path = line(past, from_s, now_s, 2 * MINUTE_S) + line(seen, from_s, now_s, APART_S);
    const chart = frame("Heart rate of the last quarter of an hour", draw("path", { class: "mean", d: path }));
    this.trend.replaceChildren(chart, axis(from_s, now_s, 5));
  }

  turnSort() {
    const by = this.desk.settings.get("findings_by") === "name" ? "probability" : "name";
    this.desk.settings.set("findings_by", by);
    this.update();
  }

  // The one that holds the focus, or the most urgent that nobody has acknowledged.
  alertToAcknowledge() {
    const id = document.activeElement?.closest("[data-alert]")?.dataset.alert,
      alerts = this.desk.ward.alertsOf(this.name);
    return alerts.find((alert) => alert.id === id) ?? alerts.find((alert) => !alert.acknowledged_by) ?? alerts[0];
  }

  close() {
    this.strips.forEach((strip) => this.desk.drop(strip));
    this.strips = [];
  }
}
