// A `Signal` and the second to show now in; a trace that sweeps over ECG paper behind an erase bar, out.

import { make, put } from "./elements.js";
import { fitting, reach } from "./gain.js";
import { paintPaper } from "./paper.js";

const ERASE_MM = 5,
  BASE = 0.56,
  TRACE_MM = 0.32,
  LEAST_TRACE_PX = 1.3,
  LEAST_MM = 22;

/** Lives in `host`, whose size it takes; only what is new is painted. */
export class Sweep {
  constructor(host, source, lead) {
    this.host = host;
    this.source = source;
    this.lead = lead;
    this.paper = make("canvas");
    this.trace = host.appendChild(make("canvas", { ariaHidden: "true" }));
    this.label = host.appendChild(make("span", { className: "lead" }, lead));
    this.words = host.appendChild(make("strong", { className: "words", hidden: true }));
    this.ink = this.trace.getContext("2d", { alpha: false });
    this.state = "live";
    this.isSeen = true;
    this.painted = 0;
    this.shown_s = NaN;
    this.born_s = performance.now() / 1000;
  }

  /** Sizes in CSS pixels; `look` is {px_per_mm, speed, gain, palette}. */
  fit(width, height, look) {
    const dots = window.devicePixelRatio || 1;
    for (const layer of [this.paper, this.trace]) {
      layer.width = Math.round(width * dots);
      layer.height = Math.round(height * dots);
    }
    this.perMm = look.px_per_mm * dots;
    this.wanted = height < LEAST_MM * look.px_per_mm ? look.gain / 2 : look.gain;
    this.perSecond = look.speed * this.perMm;
    this.base = Math.round(BASE * this.trace.height);
    this.erase = Math.round(ERASE_MM * this.perMm);
    this.overlap = Math.ceil(3 * dots);
    this.ink.strokeStyle = look.palette.trace;
    this.ink.lineWidth = Math.max(LEAST_TRACE_PX * dots, TRACE_MM * this.perMm);
    this.ink.lineJoin = "round";
    this.rule = (gain) =>
      paintPaper(this.paper, { dots_per_mm: this.perMm, dots_per_px: dots, gain, base: this.base, palette: look.palette });
    this.magnify(this.wanted);
  }

  // Everything on another paper.
  magnify(gain) {
    this.gain = gain;
    this.perMv = gain * this.perMm;
    this.rule(gain);
    this.wipe();
  }

  // Whether the gain had to be another, for what the last sweep held: once a sweep, so that heights can be compared.
  adapt(signal, mv, at_s) {
    const room = { up: this.base / this.perMm, down: (this.trace.height - this.base) / this.perMm };
    const gain = fitting(this.wanted, this.gain, reach(signal, mv, at_s - this.span_s, at_s), room);
    if (gain === this.gain) return false;
    this.magnify(gain);
    return true;
  }

  get span_s() {
    return this.trace.width / this.perSecond;
  }

  /** Words instead of a trace, where there is no signal; the empty text for a trace. */
  say(state, words) {
    if (state === "no signal" && this.state !== state) this.wipe();
    this.state = state;
    put(this.words, words);
    this.words.hidden = !words;
  }

  /** Beside the lead's name, what is wrong with its signal, and the gain where it is not the wanted one. */
  note(quality, gain) {
    const words = [this.lead, quality === "good" ? "" : quality, this.gain && this.gain !== gain ? `${this.gain} mm/mV` : ""];
    put(this.label, words.filter(Boolean).join(" · "));
  }

  wipe() {
    this.blank(0, this.trace.width);
    this.shown_s = NaN;
  }

  // Paper without a trace, from `left` on.
  blank(left, wide) {
    const high = this.paper.height,
      width = Math.min(wide, this.paper.width - left);
    if (width > 0 && high) this.ink.drawImage(this.paper, left, 0, width, high, left, 0, width, high);
  }

  /** Whether anything was painted. */
  paint(signal, at_s) {
    const row = signal.rows.get(this.lead);
    if (!row || !this.perSecond || this.state === "no signal" || at_s <= this.shown_s) return false;
    const lap = Math.floor(at_s / this.span_s) * this.span_s,
      isNew = !(at_s - this.shown_s < this.span_s / 2);
    const isOther = (isNew || this.shown_s < lap) && this.adapt(signal, row.mv, at_s);
    if (isNew || isOther) this.begin(signal, at_s);
    if (this.shown_s < lap) this.piece(signal, row.mv, this.shown_s, lap, lap - this.span_s);
    this.piece(signal, row.mv, Math.max(this.shown_s, lap), at_s, lap);
    this.painted += Math.round((at_s - this.shown_s) * signal.rate);
    this.shown_s = at_s;
    return true;
  }

  // All that one sweep holds, of what is known.
  begin(signal, at_s) {
    this.wipe();
    this.shown_s = Math.max(at_s - this.span_s + this.erase / this.perSecond, Math.min(signal.first / signal.rate, at_s));
  }

  // From one second to another of one lap. What lies a little before is painted anew, as a line ended there.
  piece(signal, mv, from_s, to_s, left_s) {
    const ink = this.ink,
      high = this.trace.height;
    const from = Math.max(Math.floor((from_s - left_s) * this.perSecond) - this.overlap, 0);
    const to = Math.ceil((to_s - left_s) * this.perSecond);
    this.blank(from, to + this.erase - from);
    this.blank(0, to + this.erase - this.trace.width);
    ink.save();
    ink.beginPath();
    ink.rect(from, 0, to - from, high);
    ink.clip();
    ink.beginPath();
    this.line(signal, mv, left_s + from / this.perSecond, to_s, left_s);
    ink.stroke();
    ink.restore();
  }

  // Through every sample, so that no QRS is lost, and on to the very moment between two.
  line(signal, mv, from_s, to_s, left_s) {
    const { rate, wrap } = signal,
      ink = this.ink,
      last = Math.min(Math.floor(to_s * rate), signal.end - 1);
    let before = NaN;
    for (let i = Math.max(Math.floor(from_s * rate) - 2, signal.first); i <= last; i++) {
      const now = mv[i & wrap],
        x = (i / rate - left_s) * this.perSecond,
        y = this.base - now * this.perMv;
      if (before === before && now === now) ink.lineTo(x, y);
      else if (now === now) ink.moveTo(x, y);
      before = now;
    }
    const next = last + 1 < signal.end ? mv[(last + 1) & wrap] : NaN,
      part = to_s * rate - last;
    if (before === before && next === next) {
      ink.lineTo((to_s - left_s) * this.perSecond, this.base - (before + part * (next - before)) * this.perMv);
    }
  }
}
