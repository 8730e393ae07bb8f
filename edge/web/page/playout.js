// The moments at which samples of a source came in; the second of it to show now, which moves on smoothly, out.

const LEAST_DELAY_S = 0.6,
  MOST_DELAY_S = 3,
  PATIENCE_S = 3,
  WINDOW_S = 8,
  CHECK_S = 0.5;
const MARGIN = 1.3,
  MARGIN_S = 0.1,
  FORGET_S = 10,
  NEARLY_ONE = 0.25,
  GIVE = 0.5;

/** All times in seconds; `now_s` of one clock that never goes back. */
export class Playout {
  constructor() {
    this.at_s = NaN;
    this.speed = 1;
    this.end_s = 0;
    this.heard_s = -Infinity;
    this.apart_s = 0;
    this.checks = [];
  }

  /** Behind the newest sample by this, in seconds of the clock: more where samples come seldom. */
  get delay_s() {
    return Math.min(Math.max(MARGIN * this.apart_s + MARGIN_S, LEAST_DELAY_S), MOST_DELAY_S);
  }

  arrive(now_s, end_s) {
    if (end_s <= this.end_s && this.end_s) return;
    const apart_s = now_s - this.heard_s;
    this.apart_s = apart_s > PATIENCE_S ? 0 : Math.max(apart_s, this.apart_s * Math.exp(-apart_s / FORGET_S));
    if (apart_s > PATIENCE_S) this.checks = [];
    this.end_s = end_s;
    this.heard_s = now_s;
    this.check(now_s, end_s);
    if (this.at_s !== this.at_s) this.jump(now_s);
  }

  // How fast the source runs: 1 for a patient, more for a recording that is played faster.
  check(now_s, end_s) {
    const checks = this.checks;
    if (checks.length && now_s - checks[checks.length - 1].now_s < CHECK_S) return;
    checks.push({ now_s, end_s });
    if (now_s - checks[0].now_s > WINDOW_S) checks.shift();
    const spent_s = now_s - checks[0].now_s;
    if (spent_s < 2 * CHECK_S) return;
    const speed = (end_s - checks[0].end_s) / spent_s;
    this.speed = Math.abs(speed - 1) < NEARLY_ONE ? 1 : speed;
  }

  /** The second to show. It stops at the newest sample, and jumps where it would lag by seconds. */
  at(now_s) {
    const spent_s = now_s - this.now_s,
      target_s = this.delay_s * this.speed;
    if (!(spent_s > 0)) return this.at_s;
    this.now_s = now_s;
    const lag_s = this.end_s - this.at_s;
    if (lag_s > target_s + PATIENCE_S * this.speed) return this.jump(now_s);
    const hurry = Math.min(Math.max((lag_s - target_s) / target_s, -1), 1) * GIVE;
    this.at_s = Math.min(this.at_s + spent_s * this.speed * (1 + hurry), this.end_s);
    return this.at_s;
  }

  jump(now_s) {
    this.now_s = now_s;
    this.at_s = this.end_s - this.delay_s * this.speed;
    return this.at_s;
  }
}
