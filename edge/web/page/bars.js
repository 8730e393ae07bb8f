// The scores of a window in; a bar for each finding, with marks where it is raised and cleared, out.

import { arrange, make, put, setClass } from "./elements.js";
import { placed } from "./chart.js";
import { shape } from "./words.js";

const UNLIKELY = 0.1;

/** Sorted by probability; what is unlikely, and far from being an alert, by name, so that bars do not change places at every breath. */
export class Bars {
  constructor(ward) {
    this.ward = ward;
    this.likely = new List();
    this.unlikely = new List();
    this.divide = make("p", { className: "note" }, `Below ${UNLIKELY}, by name`);
    this.unseen = make("p", { className: "note" });
    this.why = make("p", { className: "abstained", hidden: true });
    this.root = make("div", {}, this.why, this.likely.root, this.divide, this.unlikely.root, this.unseen);
  }

  /** The last scores of the source, or null; `by` is probability or name; `none` says why there are none. */
  update(scores, by, none) {
    const probability = scores?.probability ?? {},
      unobservable = scores?.unobservable ?? [];
    put(this.why, scores?.abstained ? `No scores: ${scores.abstained}.` : scores ? "" : none);
    this.why.hidden = !this.why.textContent;
    const unseen = unobservable.map((name) => this.ward.finding(name).title).join(", ");
    put(this.unseen, unseen && `Cannot be seen in these leads: ${unseen}.`);
    const names = Object.keys(probability).filter((name) => !unobservable.includes(name));
    const isBelow = (name) => by !== "name" && isUnlikely(this.ward.finding(name), probability[name]);
    const shown = (name) => (by === "name" ? 0 : rounded(probability[name])),
      title = (name) => this.ward.finding(name).title;
    names.sort((a, b) => title(a).localeCompare(title(b)));
    const below = names.filter(isBelow),
      above = names.filter((name) => !isBelow(name)).sort((a, b) => shown(b) - shown(a));
    this.likely.update(above, probability, this.ward);
    this.unlikely.update(below, probability, this.ward);
    this.divide.hidden = !above.length || !below.length;
  }
}

const isUnlikely = ({ priority, clear_at }, probability) =>
  rounded(probability) < UNLIKELY && (priority === "none" || probability < clear_at);

// As it is written beside the bar.
const rounded = (probability) => Math.round(100 * probability) / 100;

class List {
  constructor() {
    this.held = new Map();
    this.root = make("ul", { className: "bars" });
  }

  update(names, probability, ward) {
    arrange(this.root, this.held, names, (name) => new Bar(ward.finding(name)));
    for (const name of names) this.held.get(name).update(probability[name]);
  }
}

class Bar {
  constructor(finding) {
    this.finding = finding;
    this.fill = make("i", { className: "fill" });
    this.figure = make("span", { className: "figure" });
    const mark = (name, at) => placed(make("i", { className: `mark ${name}` }), "left", at);
    const marks =
      finding.priority === "none" || !finding.raise_at ? [] : [mark("clear", finding.clear_at), mark("raise", finding.raise_at)];
    this.meter = make(
      "span",
      { role: "meter", ariaLabel: finding.title, ariaValueMin: "0", ariaValueMax: "1", className: "meter" },
      this.fill,
      ...marks,
    );
    const title = make("span", { className: "title" }, finding.priority === "none" ? null : shape(finding.priority), finding.title);
    this.root = make("li", { "data-finding": finding.name }, title, this.meter, this.figure);
  }

  update(probability) {
    const { raise_at, clear_at, priority } = this.finding;
    const level = priority === "none" || probability < clear_at ? "calm" : probability < raise_at ? "between" : priority;
    setClass(this.root, level);
    this.fill.style.transform = `scaleX(${probability.toFixed(3)})`;
    this.meter.ariaValueNow = probability.toFixed(2);
    put(this.figure, probability.toFixed(2));
  }
}
