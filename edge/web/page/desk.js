// Settings, ward, feeds and connection in; what every view needs of them - strips, commands, words to all - in one place out.

import { make, put } from "./elements.js";
import { Sweep } from "./sweep.js";

const SILENT_S = 4,
  LATE_S = 4,
  TOAST_MS = 6000,
  ANSWER_MS = 5000;

export class Desk {
  constructor({ settings, ward, feeds, loop, connection }) {
    Object.assign(this, { settings, ward, feeds, loop, connection });
    this.watched = "";
    this.asked = new Map();
    this.toasts = document.getElementById("toasts");
    ward.addEventListener("reply", ({ detail }) => this.answered(detail));
  }

  strip(host, source, lead) {
    return this.loop.add(new Sweep(host, source, lead));
  }

  drop(strip) {
    this.loop.remove(strip);
  }

  /** Asks the monitor for the leads of the strips on the page, where they are others than before. */
  watch() {
    // A source may have any name, that of what every object has among them.
    const wanted = Object.create(null);
    for (const { source, lead } of this.loop.strips) (wanted[source] ??= []).push(lead);
    const told = JSON.stringify(wanted);
    if (told !== this.watched && this.connection.send({ watch: wanted })) this.watched = told;
  }

  /** A new connection knows of nothing yet. */
  forget() {
    this.watched = "";
  }

  /** What each strip shows in place of a trace. */
  describe() {
    for (const strip of this.loop.strips) {
      strip.say(...this.stateOf(strip));
      strip.note(this.ward.sources.get(strip.source)?.vitals?.quality[strip.lead] ?? "good", this.settings.get("gain"));
    }
  }

  stateOf({ source, lead, born_s }) {
    const known = this.ward.sources.get(source),
      feed = this.feeds.get(source);
    if (this.connection.state !== "live") return ["frozen", ""];
    if (!known) return ["no signal", "no such source"];
    if (known.told.state !== "online") return ["no signal", `no signal: ${known.told.state}`];
    const heard_s = Math.max(feed?.playout.heard_s ?? 0, born_s);
    if (performance.now() / 1000 - heard_s > SILENT_S) return ["no signal", "no signal"];
    const state = known.vitals?.quality[lead];
    return ["live", state === "off" || state === "absent" ? `lead ${state}` : ""];
  }

  /** `17 s behind` where a slow line brings a source's samples late; else the empty text. */
  behind(name) {
    const feed = this.feeds.get(name),
      isLive = this.ward.sources.get(name)?.told.state === "online";
    const late_s = isLive && feed && this.isSent(name) ? this.ward.now() - feed.signal.time_s : 0;
    return late_s > LATE_S ? `${Math.round(late_s)} s behind` : "";
  }

  // Only what has been on the page for a while is sent, and can come late.
  isSent(name) {
    const now_s = performance.now() / 1000;
    return [...this.loop.strips].some(({ source, born_s }) => source === name && now_s - born_s > SILENT_S);
  }

  acknowledge(alert) {
    if (!alert || alert.acknowledged_by)
      return this.say(
        alert ? `Acknowledged already, by ${alert.acknowledged_by}.` : "Nothing to acknowledge: choose a tile with an alert first.",
      );
    this.command({ command: "acknowledge", id: alert.id, source: alert.source });
  }

  /** For so many seconds; 0 ends it. All findings of the source where none is named. */
  silence(source, for_s, finding) {
    this.command({ command: "silence", for_s, source, ...(finding ? { finding } : {}) });
  }

  command(command) {
    const by = this.settings.get("name") || "somebody at the dashboard";
    const id = `${command.command} ${Math.random().toString(36).slice(2)}`;
    if (!this.connection.send({ ...command, by, command_id: id })) return this.say("Not connected: nothing was sent.", true);
    this.asked.set(id, command);
    setTimeout(() => this.giveUp(id), ANSWER_MS);
  }

  // Answers to what others asked come, too.
  answered({ command_id: id, source, ok, why }) {
    const command = this.asked.get(id);
    if (!this.asked.delete(id)) return;
    this.say(ok ? `${source}: ${done(command)}.` : `${source}: ${command.command} was refused. ${why ?? ""}`, !ok);
  }

  giveUp(id) {
    const command = this.asked.get(id);
    if (this.asked.delete(id)) this.say(`${command.source}: no answer to ${command.command}. Try again.`, true);
  }

  /** A few words that go away by themselves. */
  say(words, isUrgent = false) {
    const toast = this.toasts.appendChild(make("p", { className: isUrgent ? "toast urgent" : "toast" }, words));
    setTimeout(() => toast.remove(), TOAST_MS);
  }

  /** Tells those who listen to the page instead of looking at it. */
  announce(words, isUrgent) {
    put(document.getElementById(isUrgent ? "assertive" : "polite"), words);
  }
}

function done({ command, for_s }) {
  if (command === "acknowledge") return "acknowledged";
  return for_s ? "silenced" : "silence ended";
}
