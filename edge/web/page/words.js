// Figures and names of the monitor in; the words, shapes and times that people read out.

import { make } from "./elements.js";

export const PRIORITIES = ["high", "medium", "low"];
const RANK = { high: 0, medium: 1, low: 2, none: 3 };
const QUALITY = { good: "✓", off: "✕", absent: "○", flat: "▬", saturated: "▲", implausible: "?", noise: "≈", mains: "~" };
const STATE = { online: "live", stalled: "stalled", offline: "off line" };

export const two = (n) => String(n).padStart(2, "0");

/** `12:03:07` of seconds since 1970, on the clock of whoever looks. */
export function clock(time_s) {
  const at = new Date(1000 * time_s);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** The same with the day where it is not today's. */
export function moment(time_s, now_s = Date.now() / 1000) {
  const day = (s) => new Date(1000 * s).toDateString();
  const date = new Date(1000 * time_s).toLocaleDateString(undefined, { day: "numeric", month: "short" });
  return day(time_s) === day(now_s) ? clock(time_s) : `${date} ${clock(time_s)}`;
}

/** `40 s`, `12 min`, `3 h 05 min` */
export function lasting(s) {
  if (s < 90) return `${Math.max(Math.round(s), 0)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
}

export const bpm = (rate) => (rate === null || rate === undefined ? "– –" : String(Math.round(rate)));
export const inWords = (state) => STATE[state] ?? state;
export const quality = (state) => `${QUALITY[state] ?? "?"} ${state}`;
export const whole = (n) => (n === null || n === undefined ? "–" : Math.round(n).toLocaleString("en"));

/** The most urgent first: by priority, those nobody has acknowledged, the latest. */
export function byUrgency(a, b) {
  const isSeen = (alert) => Number(Boolean(alert.acknowledged_by));
  return RANK[a.priority] - RANK[b.priority] || isSeen(a) - isSeen(b) || b.onset_time - a.onset_time;
}

/** Colour, shape and word of a priority: a triangle, a diamond or a bar. */
export function badge(alert) {
  return make("span", { className: `badge ${alert.priority}` }, shape(alert.priority), alert.priority.toUpperCase());
}

export const shape = (priority) => make("i", { className: `shape ${priority}`, ariaHidden: "true" });
