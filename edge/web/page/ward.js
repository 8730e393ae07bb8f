// The messages of the monitor in; what is known of it, its sources and their alerts now out.

import { byUrgency } from "./words.js";

const TREND = 900,
  TOLD = 5000,
  CLOCK_STEP_S = 60;

/** Dispatches `alert` (detail: {alert, before, isSettling}), `evidence`, `reply` and `gone` as they come. */
export class Ward extends EventTarget {
  constructor() {
    super();
    this.told = new Map();
    this.begin(null);
  }

  begin(session) {
    this.session = session;
    this.hello = null;
    this.health = null;
    this.findings = new Map();
    this.sources = new Map();
    this.byNumber = new Map();
    this.alerts = new Map();
    this.sorted = new Map();
    this.ahead_s = (Date.now() - performance.now()) / 1000;
    this.unheard = new Set();
    this.isSettling = true;
  }

  drop(name) {
    this.byNumber.delete(this.sources.get(name)?.told.number);
    this.sources.delete(name);
    for (const alert of this.alertsOf(name)) this.alerts.delete(alert.id);
    this.sorted.clear();
    tell(this, "gone", name);
  }

  /** The monitor's own time, in seconds since 1970. */
  now() {
    return performance.now() / 1000 + this.ahead_s;
  }

  // What comes soonest tells the time best, as a message can only be late; but a clock may have been put back.
  hearTime(time_s) {
    const ahead_s = time_s - performance.now() / 1000;
    if (ahead_s > this.ahead_s || this.ahead_s - ahead_s > CLOCK_STEP_S) this.ahead_s = ahead_s;
  }

  /** A connection begins: it tells anew what is on. */
  reopen() {
    this.alerts.clear();
    this.sorted.clear();
    this.isSettling = true;
    this.unheard = new Set(this.sources.keys());
  }

  take(message) {
    const act = ACTS[message.type];
    if (act) act(this, message);
  }

  /** Those that are on, the most urgent first; of all sources where none is named. Not to be changed. */
  alertsOf(source = "") {
    let found = this.sorted.get(source);
    if (!found) {
      found = [...this.alerts.values()].filter((alert) => !source || alert.source === source).sort(byUrgency);
      this.sorted.set(source, found);
    }
    return found;
  }

  /** Of a finding; one that the model no longer has is told by its name. */
  finding(name) {
    return this.findings.get(name) ?? { name, title: name.replaceAll("_", " "), priority: "none", kind: "physiological" };
  }

  /** The leads to show first of those that a source has. */
  leadsOf(source, chosen) {
    const has = this.sources.get(source)?.told.leads ?? [];
    const among = (wanted) => has.filter((lead) => wanted?.includes(lead));
    const first = (this.hello?.leads ?? []).filter((lead) => has.includes(lead));
    return chosen && among(chosen).length ? among(chosen) : first.length ? first : has.slice(0, 1);
  }
}

const ACTS = {
  hello(ward, message) {
    if (message.session !== ward.session) ward.begin(message.session);
    ward.hello = message;
    ward.ahead_s = message.time - performance.now() / 1000;
    ward.findings = new Map(message.findings.map((finding) => [finding.name, finding]));
    for (const source of ward.sources.values()) source.scores = null;
  },
  source(ward, message) {
    const known = ward.sources.get(message.source) ?? { scores: null, vitals: null, trend: new Trend() };
    ward.unheard.delete(message.source);
    ward.sources.set(message.source, { ...known, told: message });
    ward.byNumber.set(message.number, message);
  },
  gone: (ward, message) => ward.drop(message.source),
  scores(ward, message) {
    const source = ward.sources.get(message.source);
    if (source) source.scores = message;
  },
  vitals(ward, message) {
    const source = ward.sources.get(message.source);
    if (!source) return;
    source.vitals = message;
    source.trend.add(message.time, message.heart_rate_bpm);
  },
  alert(ward, message) {
    ward.sorted.clear();
    if (message.state === "cleared") ward.alerts.delete(message.id);
    else ward.alerts.set(message.id, message);
    const before = ward.told.get(message.id);
    remember(ward.told, message);
    if (!before || before.seq !== message.seq) tell(ward, "alert", { alert: message, before, isSettling: ward.isSettling });
  },
  evidence: (ward, message) => tell(ward, "evidence", message),
  reply: (ward, message) => tell(ward, "reply", message),
  health(ward, message) {
    ward.health = message;
    ward.hearTime(message.time);
    ward.isSettling = false;
    for (const name of ward.unheard) ward.drop(name);
    ward.unheard.clear();
  },
};

function tell(ward, name, detail) {
  ward.dispatchEvent(new CustomEvent(name, { detail }));
}

function remember(told, alert) {
  told.delete(alert.id);
  told.set(alert.id, { seq: alert.seq, state: alert.state, acknowledged_by: alert.acknowledged_by });
  if (told.size > TOLD) told.delete(told.keys().next().value);
}

/** The last heart rates of a source, a fixed number of them. */
export class Trend {
  constructor() {
    this.time_s = new Float64Array(TREND);
    this.bpm = new Float32Array(TREND);
    this.count = 0;
  }

  add(time_s, bpm) {
    this.time_s[this.count % TREND] = time_s;
    this.bpm[this.count % TREND] = bpm ?? NaN;
    this.count++;
  }

  /** [seconds since 1970, beats a minute or NaN], the oldest first. */
  since(from_s) {
    const points = [];
    for (let i = Math.max(this.count - TREND, 0); i < this.count; i++) {
      if (this.time_s[i % TREND] >= from_s) points.push([this.time_s[i % TREND], this.bpm[i % TREND]]);
    }
    return points;
  }
}
