// The frames of one source in; its last samples by lead, in rings of fixed size on one axis that never goes back, out.

import { NO_SIGNAL } from "./frame.js";

const KEPT_S = 60,
  NEW_STREAM_S = 0.4,
  FAR_S = 20,
  SETTLED_S = 1,
  WOBBLE_S = 0.05;

/** Rows hold millivolts, NaN where there is no signal; sample `i` of the axis lies at `i & wrap`. */
export class Signal {
  constructor(baselineHz) {
    this.baselineHz = baselineHz;
    this.rate = 0;
    this.end = 0;
    this.time_s = 0;
    this.jumps = 0;
    this.rows = new Map();
  }

  get first() {
    return Math.max(this.end - this.wrap - 1, 0);
  }
  get end_s() {
    return this.rate ? this.end / this.rate : 0;
  }

  /** Seconds since 1970 of a second of the axis, where the source runs at `speed` seconds a second. */
  timeOf(at_s, speed = 1) {
    return this.time_s - (this.end_s - at_s) / speed;
  }

  take(frame, leads) {
    if (frame.rate_hz !== this.rate) this.begin(frame);
    const at = this.place(frame);
    this.next = at + frame.count;
    if (at < this.first) return;
    this.reach(this.next, leads);
    leads.forEach((lead, i) => this.write(this.row(lead), at, frame.rows[i], frame.mv_per_digit));
    if (this.next === this.end) this.time_s = frame.time_s + frame.count / frame.rate_hz;
  }

  begin(frame) {
    const end_s = this.end_s,
      start = Math.round(frame.start_s * frame.rate_hz);
    this.rate = frame.rate_hz;
    this.wrap = 2 ** Math.ceil(Math.log2(KEPT_S * this.rate)) - 1;
    this.rows.clear();
    this.jumps += end_s ? 1 : 0;
    this.end = this.next = end_s ? Math.ceil((end_s + NEW_STREAM_S) * this.rate) : start;
    this.shift = this.end - start;
  }

  // Samples sent once more keep their place; those of a new stream follow the last.
  place(frame) {
    const at = Math.round(frame.start_s * this.rate) + this.shift;
    if (at === this.next || at === this.end) return at;
    const isNear = Math.abs(at - this.end) < FAR_S * this.rate;
    if (isNear && at < this.end && (at > this.next || this.time_s - frame.time_s > WOBBLE_S)) return at;
    if (Math.abs(at - this.next) <= 1) return this.next;
    this.jumps++;
    if (isNear && at > this.end) return at;
    const next = this.end + Math.round(NEW_STREAM_S * this.rate);
    this.shift += next - at;
    return next;
  }

  // Nothing is known yet between the last end and the new one, in any lead.
  reach(end, leads) {
    for (const lead of leads) this.row(lead);
    if (end <= this.end) return;
    for (const row of this.rows.values()) {
      for (let i = Math.max(this.end, end - this.wrap - 1); i < end; i++) row.mv[i & this.wrap] = NaN;
    }
    this.end = end;
  }

  row(lead) {
    let row = this.rows.get(lead);
    if (!row) this.rows.set(lead, (row = { mv: new Float32Array(this.wrap + 1).fill(NaN), base: 0, next: -1 }));
    return row;
  }

  // Less its baseline: a high-pass of one pole, which begins anew at the median of the first second after a gap.
  write(row, at, digits, unit) {
    const share = 1 - Math.exp((-2 * Math.PI * this.baselineHz) / this.rate);
    if (row.next !== at || Number.isNaN(row.base)) row.base = unit * this.middle(digits);
    for (let i = 0; i < digits.length; i++) {
      const mv = digits[i] === NO_SIGNAL ? NaN : unit * digits[i];
      if (mv === mv) row.base += share * (mv - row.base);
      row.mv[(at + i) & this.wrap] = mv - row.base;
    }
    row.next = at + digits.length;
  }

  middle(digits) {
    const there = digits
      .subarray(0, Math.ceil(SETTLED_S * this.rate))
      .filter((digit) => digit !== NO_SIGNAL)
      .sort();
    return there.length ? there[there.length >> 1] : NaN;
  }
}
