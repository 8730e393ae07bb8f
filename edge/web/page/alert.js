// The id of an alert in; who, what, when and why, and the strip before and after it with zoom and calipers, out.

import { reason } from "./card.js";
import { make, put } from "./elements.js";
import { badge, clock, lasting, moment, whole } from "./words.js";

const AROUND_S = 3600,
  MOST_OTHERS = 12,
  MOST_DECIDED = 8;

export function alert(place, desk, id) {
  const page = new AlertPage(place, desk, id);
  const again = ({ detail }) => {
    if (detail.id === id) page.load();
  };
  desk.ward.addEventListener("evidence", again);
  page.load();
  return {
    title: "Alert",
    update: () => page.update(),
    alert: () => desk.ward.alerts.get(id),
    focus: () => page.heading.focus(),
    close: () => {
      desk.ward.removeEventListener("evidence", again);
      page.close();
    },
  };
}

class AlertPage {
  constructor(place, desk, id) {
    Object.assign(this, { desk, id, told: null, decided: [], shown: "" });
    this.leaving = new AbortController();
    this.heading = make("h1", { tabIndex: -1 }, "Alert");
    this.badge = make("span");
    this.facts = make("dl", { className: "facts grid" });
    this.strip = make("div", { className: "evidence", ariaLive: "off" }, make("p", { className: "note" }, "Loading the strip …"));
    this.acknowledge = make(
      "button",
      { type: "button", className: "main", onclick: () => desk.acknowledge(desk.ward.alerts.get(id)) },
      "Acknowledge",
    );
    const link = (ending, words) =>
      make("a", { className: "button", href: `/alerts/${encodeURIComponent(id)}.${ending}`, download: "" }, words);
    const files = make(
      "div",
      { className: "buttons" },
      this.acknowledge,
      link("png", "PNG"),
      link("hea", "WFDB .hea"),
      link("dat", "WFDB .dat"),
    );
    this.back = make("a", { className: "button", href: "#/" }, "← Wall");
    this.also = make("ul", { className: "also" });
    this.alsoTitle = make("h2", { hidden: true }, "Within an hour of it");
    const bar = make("div", { className: "bar" }, this.back, this.badge, this.heading);
    place.append(bar, this.facts, files, this.strip, this.alsoTitle, this.also);
    place.className = "alert-page";
  }

  async load() {
    const address = `/alerts/${encodeURIComponent(this.id)}`;
    const [page, strip] = await Promise.all([this.ask(`${address}.json`), this.ask(`${address}/strip`)]);
    if (this.leaving.signal.aborted) return;
    this.isLoaded = page !== null;
    if (page?.ok) this.take(JSON.parse(page.body));
    await this.showStrip(strip);
    this.update();
    if (this.told) await this.showOthers(this.told);
  }

  // {ok, status, body}, or null where the monitor cannot be reached or the view is left.
  async ask(address) {
    try {
      const answer = await fetch(address, { signal: this.leaving.signal, cache: "no-store" });
      return { ok: answer.ok, status: answer.status, body: await answer.text() };
    } catch {
      return null;
    }
  }

  take(page) {
    this.told = page.alert;
    this.began_s = page.raised.time - page.raised.at_s;
    this.decided = page.raised.evidence.decided;
  }

  async showStrip(answer) {
    if (!answer?.ok) return this.explain(answer);
    const figure = new DOMParser().parseFromString(answer.body, "text/html").querySelector("figure.strip");
    if (!figure) return;
    if (!(await hasViewer())) return this.explain(null);
    if (this.leaving.signal.aborted) return;
    if (this.told) figure.dataset.began = this.began_s;
    this.strip.replaceChildren(document.adoptNode(figure));
    document.dispatchEvent(new Event("strips-changed"));
  }

  explain(answer) {
    const why = answer ? (whyIn(answer.body) ?? `the monitor answered ${answer.status}`) : "the monitor cannot be reached";
    this.strip.replaceChildren(make("p", { className: "note" }, `No strip: ${why}.`));
  }

  // What else the source had then, as far as the history goes back.
  async showOthers({ id, source, onset_time }) {
    const hours = Math.min(Math.max((this.desk.ward.now() - onset_time + AROUND_S) / 3600, 1), 744);
    const answer = await this.ask(`/history.json?hours=${hours.toFixed(2)}&source=${encodeURIComponent(source)}`);
    if (!answer?.ok || this.leaving.signal.aborted) return;
    const others = JSON.parse(answer.body)
      .alerts.filter((one) => one.id !== id && isNear(one, onset_time))
      .slice(0, MOST_OTHERS);
    this.alsoTitle.hidden = !others.length;
    this.also.replaceChildren(...others.map((one) => this.other(one)));
  }

  other(one) {
    const link = make("a", { href: `#/alert/${encodeURIComponent(one.id)}` }, this.desk.ward.finding(one.finding).title);
    const ended = one.state === "cleared" ? `for ${lasting(one.time - one.onset_time)}` : "on still";
    return make("li", {}, badge(one), link, ` ${moment(one.onset_time)}, ${ended}`);
  }

  update() {
    const now = this.desk.ward.alerts.get(this.id),
      alert = now ?? this.told;
    if (!alert) return put(this.heading, this.isLoaded ? "This alert is not held any more" : "Alert");
    this.acknowledge.hidden = !now || Boolean(now.acknowledged_by);
    const facts = this.tell(alert, Boolean(now)),
      key = JSON.stringify(facts);
    if (key === this.shown) return;
    this.shown = key;
    const title = this.desk.ward.finding(alert.finding).title;
    put(this.heading, `${title}, ${alert.source}`);
    this.back.href = `#/source/${encodeURIComponent(alert.source)}`;
    put(this.back, `← ${alert.source}`);
    this.badge.replaceChildren(badge(alert));
    this.facts.replaceChildren(...facts.map(([name, words]) => make("div", {}, make("dt", {}, name), make("dd", {}, words))));
  }

  tell(alert, isOn) {
    const ended = isOn
      ? `on for ${lasting(this.desk.ward.now() - alert.onset_time)}`
      : `over, after ${lasting(alert.time - alert.onset_time)}`;
    const decided = this.decided
      .slice(-MOST_DECIDED)
      .map(({ score }) => score.toFixed(2))
      .join(", ");
    return [
      ["State", alert.state === "cleared" ? `over, after ${lasting(alert.time - alert.onset_time)}` : ended],
      ["Began", moment(alert.onset_time)],
      ["Why", reason(alert) || "–"],
      ["Decided by", decided && alert.kind !== "technical" ? `windows with ${decided}` : "–"],
      [
        "Heart rate",
        alert.heart_rate_bpm === null || alert.heart_rate_bpm === undefined
          ? "–"
          : `${whole(alert.heart_rate_bpm)}/min at ${clock(alert.time)}`,
      ],
      ["Acknowledged", alert.acknowledged_by ? `by ${alert.acknowledged_by}` : "by nobody"],
      ["Model", alert.bundle || "–"],
    ];
  }

  close() {
    this.leaving.abort();
    this.strip.replaceChildren();
    document.dispatchEvent(new Event("strips-changed"));
  }
}

function isNear(alert, time_s) {
  const end_s = alert.state === "cleared" ? alert.time : Infinity;
  return alert.onset_time < time_s + AROUND_S && end_s > time_s - AROUND_S;
}

// The viewer of the Holter report, fetched when the first strip is shown.
async function hasViewer() {
  try {
    await import("/static/strips.js");
    return true;
  } catch {
    return false;
  }
}

function whyIn(body) {
  try {
    return JSON.parse(body).why;
  } catch {
    return null;
  }
}
