// An alert that is on in; a card that tells it, with buttons to acknowledge and to silence, out.

import { make, put } from "./elements.js";
import { badge, clock, lasting } from "./words.js";

const SILENCE_S = 120;

/** {root, update(alert)} */
export function alertCard(first, desk) {
  let alert = first;
  const parts = {
    badge: make("span"),
    since: make("span", { className: "note" }),
    why: make("p"),
    seen: make("p", { className: "seen" }),
    acknowledge: make("button", { type: "button", className: "main", onclick: () => desk.acknowledge(alert) }, "Acknowledge"),
    silence: make("button", { type: "button", onclick: () => desk.silence(alert.source, alert.silenced ? 0 : SILENCE_S, alert.finding) }),
  };
  const title = make("b", { className: "what" }, desk.ward.finding(alert.finding).title);
  const strip = make("a", { className: "button", href: `#/alert/${encodeURIComponent(alert.id)}` }, "Evidence");
  const buttons = make("div", { className: "buttons" }, parts.acknowledge, parts.silence, strip);
  const head = make("p", { className: "head" }, parts.badge, title, parts.since);
  const root = make(
    "article",
    { ariaLabel: desk.ward.finding(alert.finding).title, "data-alert": alert.id },
    head,
    parts.why,
    parts.seen,
    buttons,
  );

  function update(next) {
    if (next !== alert || !parts.badge.firstChild) show(next);
    put(parts.since, `since ${clock(alert.onset_time)}, for ${lasting(desk.ward.now() - alert.onset_time)}`);
  }

  function show(next) {
    alert = next;
    root.className = `card ${alert.priority} ${alert.kind} ${alert.acknowledged_by ? "" : "fresh"}`;
    parts.badge.replaceChildren(badge(alert), alert.kind === "technical" ? " technical" : "");
    put(parts.why, reason(alert));
    put(
      parts.seen,
      [alert.acknowledged_by ? `✓ Acknowledged by ${alert.acknowledged_by}` : "", alert.silenced ? "Silenced" : ""]
        .filter(Boolean)
        .join(" · "),
    );
    parts.acknowledge.hidden = Boolean(alert.acknowledged_by);
    put(parts.silence, alert.silenced ? "End silence" : "Silence 2 min");
  }

  return { root, update };
}

/** Why it is on, in words. */
export function reason(alert) {
  if (alert.kind === "technical") return alert.why ?? "";
  return `Highest probability ${alert.score.toFixed(2)}${alert.why ? `; ${alert.why}` : ""}`;
}
