// The monitor's messages and what is typed in; the view that the address names, kept up to date, out.

import { alert } from "./alert.js";
import { Connection } from "./connection.js";
import { Desk } from "./desk.js";
import { make, put } from "./elements.js";
import { figures } from "./figures.js";
import { namedBy, readFrames } from "./frame.js";
import { health } from "./health.js";
import { history } from "./history.js";
import { listen } from "./keys.js";
import { Loop } from "./loop.js";
import { Playout } from "./playout.js";
import { Settings } from "./settings.js";
import { Signal } from "./signal.js";
import { isMute, ringFor } from "./sound.js";
import { source } from "./source.js";
import { wall } from "./wall.js";
import { Ward } from "./ward.js";
import { clock, PRIORITIES, shape } from "./words.js";

const TICK_MS = 250,
  COLOURS = ["paper", "fine", "bold", "trace", "soft"];
const CONNECTIONS = { live: "Live", lost: "Not live", connecting: "Connecting", login: "Log in" };
const VIEWS = new Map(Object.entries({ "": wall, source, alert, history, health }));

class Page {
  constructor() {
    this.settings = new Settings();
    this.ward = new Ward();
    this.feeds = new Map();
    this.place = document.getElementById("view");
    this.system = matchMedia("(prefers-color-scheme: dark)");
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.paint();
    this.loop = new Loop(this.feeds, () => this.look);
    this.connection = new Connection(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`, this);
    this.desk = new Desk(this);
    window.ward = figures(this);
    this.listen();
    this.route();
    setInterval(() => this.tick(), TICK_MS);
  }

  listen() {
    addEventListener("hashchange", () => this.route());
    this.system.addEventListener("change", () => this.repaint());
    this.settings.addEventListener("change", ({ detail }) => this.changed(detail));
    this.ward.addEventListener("alert", ({ detail }) => this.tellAlert(detail));
    this.ward.addEventListener("gone", ({ detail }) => this.feeds.delete(detail));
    listen(this);
  }

  // What the connection tells.

  open() {
    this.ward.reopen();
    this.desk?.forget();
  }

  message(message) {
    if (message.type === "hello" && message.session !== this.ward.session) this.feeds.clear();
    const count = this.ward.sources.size;
    this.ward.take(message);
    if (this.ward.sources.size !== count) this.tickSoon();
  }

  samples(buffer) {
    for (const frame of readFrames(buffer)) this.feed(frame);
  }

  feed(frame) {
    const known = this.ward.byNumber.get(frame.number);
    if (!known || !frame.count) return;
    const leads = namedBy(frame.mask, known.leads),
      feed = this.feedOf(known.source);
    if (leads.length !== frame.rows.length) return;
    feed.signal.take(frame, leads);
    feed.playout.arrive(performance.now() / 1000, feed.signal.end_s);
  }

  feedOf(name) {
    let feed = this.feeds.get(name);
    if (!feed) this.feeds.set(name, (feed = { signal: new Signal(this.settings.get("baseline_hz")), playout: new Playout() }));
    return feed;
  }

  state({ state, since_ms }) {
    const isLive = state === "live",
      banner = document.getElementById("lost");
    this.loop.freeze(!isLive);
    document.documentElement.dataset.connection = state;
    if (state === "login") return location.assign("/login");
    if (isLive) this.loop.refit();
    if (!isLive) put(document.getElementById("lost-since"), clock(since_ms / 1000));
    banner.hidden = isLive;
    this.tick();
  }

  // What the eyes see: words four times a second, and no oftener.

  tick() {
    this.connection.check();
    this.desk.describe();
    if (!document.hidden) this.view.update();
    this.desk.watch();
    this.head();
    this.flash();
    if (this.settings.get("sound")) this.sound();
  }

  // IEC 60601-1-8: high priority flashes at 1.4 to 2.8 Hz, medium at 0.4 to 0.8 Hz, low does not.
  flash() {
    const half = Math.floor(performance.now() / TICK_MS),
      dark = [half % 2 ? "high" : "", half & 4 ? "medium" : ""];
    document.documentElement.dataset.dark = this.still.matches ? "" : dark.filter(Boolean).join(" ");
  }

  // Many sources are told at once: they are shown together, and at once.
  tickSoon() {
    this.soon ??= setTimeout(() => {
      this.soon = undefined;
      this.tick();
    });
  }

  head() {
    put(document.getElementById("clock"), clock(Date.now() / 1000));
    put(document.getElementById("connection"), this.liveness());
    const alerts = this.ward.alertsOf().filter((one) => !one.acknowledged_by && (one.kind !== "technical" || one.priority !== "low"));
    this.entitle(alerts[0]);
    this.count(PRIORITIES.map((priority) => [priority, alerts.filter((one) => one.priority === priority).length]));
  }

  liveness() {
    const late = [...this.feeds.keys()].map((name) => this.desk.behind(name)).find(Boolean);
    document.documentElement.toggleAttribute("data-late", Boolean(late));
    return late && this.connection.state === "live" ? `Slow line: ${late}` : CONNECTIONS[this.connection.state];
  }

  // The title of a tab that is not in front.
  entitle(worst) {
    const words = worst ? `${worst.priority.toUpperCase()} ${worst.source}: ${this.ward.finding(worst.finding).title}` : this.view.title;
    const title = `${this.connection.state === "live" ? "" : "NOT LIVE · "}${words} · ${this.ward.hello?.site ?? "cardiogloss"}`;
    if (document.title !== title) document.title = title;
  }

  count(counts) {
    const key = counts.join();
    if (this.counted === key) return;
    this.counted = key;
    const told = (priority, count) =>
      make("span", { className: `badge ${priority}` }, shape(priority), `${count} ${priority.toUpperCase()}`);
    const badges = counts.filter(([, count]) => count).map(([priority, count]) => told(priority, count));
    document.getElementById("counts").replaceChildren(...badges);
  }

  sound() {
    ringFor(
      this.ward.alertsOf().filter((one) => !one.acknowledged_by && !one.silenced),
      performance.now() / 1000,
    );
    document.getElementById("mute").hidden = !isMute();
  }

  tellAlert({ alert: one, before, isSettling }) {
    // A hidden page hardly ticks: it must ring for all that.
    if (this.settings.get("sound")) this.sound();
    if (isSettling || (one.state !== "cleared" && before && before.acknowledged_by === one.acknowledged_by)) return;
    const title = this.ward.finding(one.finding).title,
      isNew = one.state !== "cleared" && !one.acknowledged_by;
    const what =
      one.state === "cleared" ? "over" : one.acknowledged_by ? `acknowledged by ${one.acknowledged_by}` : `${one.priority} priority`;
    this.desk.announce(`${one.source}: ${title}, ${what}`, isNew && one.priority === "high");
  }

  // Which view is shown.

  route() {
    const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/"),
      from = this.view?.of;
    this.view?.close();
    this.place.replaceChildren();
    this.place.className = name || "wall-page";
    const of = decoded(rest.join("/"));
    this.view = (VIEWS.get(name) ?? wall)(this.place, this.desk, of);
    this.view.of = of;
    this.name = VIEWS.has(name) && name ? name : "wall";
    for (const link of document.querySelectorAll("nav a"))
      link.ariaCurrent = link.getAttribute("href") === (location.hash || "#/") ? "page" : null;
    this.tick();
    if (from !== undefined) this.view.focus(from);
    scrollTo(0, 0);
  }

  // How it looks.

  changed(name) {
    if (name === "baseline_hz") for (const { signal } of this.feeds.values()) signal.baselineHz = this.settings.get(name);
    this.repaint();
    this.view.update();
  }

  repaint() {
    this.paint();
    this.loop.refit();
    document.dispatchEvent(new Event("strips-changed"));
  }

  paint() {
    const theme = this.settings.get("theme"),
      root = document.documentElement;
    root.dataset.theme = theme === "auto" ? (this.system.matches ? "dark" : "light") : theme;
    const style = getComputedStyle(root),
      palette = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    this.look = { palette, px_per_mm: this.settings.get("px_per_mm"), speed: this.settings.get("speed"), gain: this.settings.get("gain") };
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

new Page();
