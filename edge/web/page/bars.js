// The scores of a window in; a bar for each finding, with marks where it is raised and cleared, out.

import { arrange, make, put, setClass } from "./elements.js";
import { placed } from "./chart.js";
import { shape } from "./words.js";

const STEPS = 20;

/** Sorted by steps of probability, so that bars do not change places at every breath. */
export class Bars {
  constructor(ward) {
    this.ward = ward;
    this.held = new Map();
    this.list = make("ul", { className: "bars" });
    this.unseen = make("p", { className: "note" });
    this.why = make("p", { className: "abstained", hidden: true });
    this.root = make("div", {}, this.why, this.list, this.unseen);
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
    const steps = (name) => (by === "name" ? 0 : Math.round(probability[name] * STEPS)),
      title = (name) => this.ward.finding(name).title;
    names.sort((a, b) => steps(b) - steps(a) || title(a).localeCompare(title(b)));
    arrange(this.list, this.held, names, (name) => new Bar(this.ward.finding(name)));
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
