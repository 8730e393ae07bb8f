// Heart rates over time in; lines and bands with their axes, as SVG that stretches with its box, out.

import { draw, make } from "./elements.js";
import { clock, two } from "./words.js";

export const WIDE = 1000,
  HIGH = 100;
const LOW_BPM = 30,
  HIGH_BPM = 180,
  LINES = [60, 100, 140],
  LEAST_BPM = 0.7;
const STEPS_S = [60, 120, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800];

export const rise = (bpm) => HIGH - (HIGH * (Math.min(Math.max(bpm, LOW_BPM), HIGH_BPM) - LOW_BPM)) / (HIGH_BPM - LOW_BPM);

/** A box whose parts lie on percentages of it: the lines of 60, 100 and 140 beats a minute with their figures. */
export function frame(label, ...shapes) {
  const rules = LINES.map((bpm) => draw("path", { class: "rule", d: `M0 ${rise(bpm)}H${WIDE}` }));
  const svg = draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...rules, ...shapes);
  const figures = LINES.map((bpm) => placed(make("span", { className: "y", ariaHidden: "true" }, String(bpm)), "top", rise(bpm) / HIGH));
  return make("div", { className: "chart", role: "img", ariaLabel: label }, svg, ...figures);
}

/** The path through [seconds, beats a minute]; what is NaN, or follows so late, breaks it. */
export function line(points, from_s, to_s, most_apart_s) {
  let path = "",
    last_s = -Infinity;
  for (const [time_s, bpm] of points) {
    if (bpm !== bpm) continue;
    path += `${time_s - last_s > most_apart_s ? "M" : "L"}${x(time_s, from_s, to_s).toFixed(1)} ${rise(bpm).toFixed(1)}`;
    last_s = time_s;
  }
  return path;
}

/** Areas between the lowest and the highest of each step, given as [low, mean, high] or null. */
export function band(steps) {
  const wide = WIDE / steps.length;
  const top = (bpm) => rise(bpm + LEAST_BPM).toFixed(1),
    foot = (bpm) => rise(bpm - LEAST_BPM).toFixed(1);
  const box = ([low, , high], i) => `M${(i * wide).toFixed(1)} ${top(high)}h${wide.toFixed(2)}V${foot(low)}h-${wide.toFixed(2)}z`;
  return steps.map((step, i) => (step ? box(step, i) : "")).join("");
}

/** The line through their means. */
export function means(steps) {
  const wide = WIDE / steps.length;
  const point = ([, mean], i) => `${i && steps[i - 1] ? "L" : "M"}${((i + 0.5) * wide).toFixed(1)} ${rise(mean).toFixed(1)}`;
  return steps.map((step, i) => (step ? point(step, i) : "")).join("");
}

/** Times of day below a chart, at most about `most` of them. */
export function axis(from_s, to_s, most) {
  const step_s = STEPS_S.find((s) => (to_s - from_s) / s <= most) ?? 172800,
    ahead_s = -60 * new Date(1000 * to_s).getTimezoneOffset();
  const marks = [];
  for (let s = Math.ceil((from_s + ahead_s) / step_s) * step_s - ahead_s; s <= to_s; s += step_s) {
    const share = (s - from_s) / (to_s - from_s);
    if (share > 0.03 && share < 0.97) marks.push(placed(make("span", {}, hour(s)), "left", share));
  }
  return make("div", { className: "axis", ariaHidden: "true" }, ...marks);
}

export const x = (time_s, from_s, to_s) => (WIDE * Math.min(Math.max(time_s - from_s, 0), to_s - from_s)) / (to_s - from_s);

export function placed(element, side, share) {
  element.style[side] = `${(100 * share).toFixed(2)}%`;
  return element;
}

function hour(time_s) {
  const at = new Date(1000 * time_s);
  return at.getSeconds() ? clock(time_s) : `${two(at.getHours())}:${two(at.getMinutes())}`;
}
