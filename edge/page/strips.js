"use strict";
// Strips on ECG paper: 25 mm/s, 10 mm/mV. Zoom by buttons, keys, pinch or the wheel once a strip has the focus.
(() => {
  const PX_PER_MM = 96 / 25.4, MM_PER_S = 25, NONE = -32768;
  const LEAST_ROOM_MV = 0.6, MOST_ROOM_MV = 3, GAP_MM = 4, FOOT_PX = 18;
  const GAINS = [5, 10, 20];
  const HELP = "+ − zoom, arrows move, 0 whole width, G gain, C caliper (arrows move its right leg, Shift its left), Esc leave";
  const views = [];

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  function clock(seconds, digits) {
    const unit = 10 ** digits, all = Math.round(seconds * unit), whole = Math.floor(all / unit);
    const two = (n) => String(n).padStart(2, "0");
    const rest = digits ? "." + String(all % unit).padStart(digits, "0") : "";
    return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}${rest}`;
  }

  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const data = new DataView(bytes.buffer);
    return Int16Array.from({ length: bytes.length / 2 }, (_, i) => data.getInt16(2 * i, true));
  }

  class View {
    constructor(figure) {
      this.figure = figure;
      this.canvas = figure.querySelector("canvas");
      this.start = Number(figure.dataset.start);
      this.rate = Number(figure.dataset.rate);
      this.leads = figure.dataset.leads.split(" ").filter(Boolean);
      // Seconds since 1970 where the stream began: then times are those of the day, for whoever looks.
      this.began = Number(figure.dataset.began ?? NaN);
      this.marks = figure.dataset.marks.split(" ").filter(Boolean).map(Number);
      this.whole = figure.classList.contains("whole");
      const digits = figure.dataset.samples.length * 3 / 8 - (figure.dataset.samples.match(/=*$/)[0].length) / 2;
      this.length = this.leads.length ? Math.floor(digits / this.leads.length) / this.rate : 0;
      this.gain = 10;
      this.at = null;
      this.legs = null;
      this.pointers = new Map();
      this.ready = false;
      this.buildTools();
    }

    get end() { return this.start + this.length; }

    prepare() {
      if (this.ready) return;
      this.ready = true;
      const unit = Number(this.figure.dataset.uv) / 1000, digits = decode(this.figure.dataset.samples);
      const n = this.leads.length ? digits.length / this.leads.length : 0;
      this.rows = this.leads.map((name, i) => {
        const mv = Float32Array.from(digits.subarray(i * n, (i + 1) * n), (d) => (d === NONE ? NaN : d * unit));
        const there = mv.filter((x) => x === x).sort();
        const middle = there.length ? there[there.length >> 1] : 0;
        const reach = (share) => (there.length ? Math.abs(there[Math.floor(share * (there.length - 1))] - middle) : 0);
        for (let k = 0; k < mv.length; k++) mv[k] -= middle;
        const odd = this.whole ? 0.0005 : 0;
        return { name, mv, up: clamp(reach(1 - odd), LEAST_ROOM_MV, MOST_ROOM_MV), down: clamp(reach(odd), LEAST_ROOM_MV, MOST_ROOM_MV) };
      });
      this.reset();
      this.listen();
      new ResizeObserver(() => this.resize()).observe(this.canvas);
    }

    // Baselines in mm below the top, and the height of all rows.
    lay() {
      let top = GAP_MM;
      this.baselines = this.rows.map((row) => {
        const base = top + row.up * this.gain;
        top = base + row.down * this.gain + GAP_MM;
        return base;
      });
      this.height = top;
    }

    reset() {
      const middle = this.scale ? this.left + this.visible / 2 : null;
      const width = this.canvas.clientWidth || 800;
      const fit = width / Math.max(this.length * MM_PER_S, 25);
      this.scale = fit < 0.55 * PX_PER_MM ? 0.7 * PX_PER_MM : Math.min(fit, 1.3 * PX_PER_MM);
      this.smallest = Math.min(fit, this.scale);
      this.first = this.scale;
      this.lay();
      this.left = middle === null ? this.start : middle - this.visible / 2;
      this.top = 0;
      this.draw();
    }

    resize() {
      const width = this.canvas.clientWidth;
      if (!width || width === this.width) return;
      this.width = width;
      this.reset();
    }

    // Pixels a millimetre upwards: who looks from afar sees more time, and the heights stay readable.
    get rise() { return Math.max(this.scale, this.first); }
    get room() { return this.canvas.clientHeight - FOOT_PX; }
    get visible() { return this.canvas.clientWidth / (this.scale * MM_PER_S); }
    x(seconds) { return (seconds - this.left) * MM_PER_S * this.scale; }
    seconds(x) { return this.left + x / (MM_PER_S * this.scale); }

    bound() {
      const first = clamp(this.height * this.first + FOOT_PX, 110, 900), most = Math.max(first, 0.7 * innerHeight);
      this.canvas.style.height = `${Math.round(clamp(this.height * this.rise + FOOT_PX, first, most))}px`;
      this.left = this.visible >= this.length ? this.start : clamp(this.left, this.start, this.end - this.visible);
      this.top = clamp(this.top, 0, Math.max(this.height - this.room / this.rise, 0));
    }

    zoom(factor, x = this.canvas.clientWidth / 2, y = this.room / 2) {
      const seconds = this.seconds(x), mm = this.top + y / this.rise;
      this.scale = clamp(this.scale * factor, this.smallest, 30);
      this.left = seconds - x / (MM_PER_S * this.scale);
      this.top = mm - y / this.rise;
      this.draw();
    }

    pan(dx, dy) {
      this.left -= dx / (MM_PER_S * this.scale);
      this.top -= dy / this.rise;
      this.draw();
    }

    goTo(seconds) {
      this.prepare();
      this.left = seconds - this.visible / 2;
      this.at = seconds >= this.start - 0.01 && seconds <= this.end + 0.01 ? seconds : null;
      this.draw();
      this.figure.scrollIntoView({ block: "nearest" });
    }

    draw() {
      this.bound();
      if (this.frame) return;
      this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
      if (this.whole) document.dispatchEvent(new CustomEvent("strip-moved", { detail: this }));
    }

    paint() {
      const dots = window.devicePixelRatio || 1, width = this.canvas.clientWidth, height = this.canvas.clientHeight;
      this.canvas.width = Math.round(width * dots);
      this.canvas.height = Math.round(height * dots);
      const ink = this.canvas.getContext("2d");
      ink.scale(dots, dots);
      ink.fillStyle = colour("paper");
      ink.fillRect(0, 0, width, height);
      this.paintGrid(ink, width, height);
      ink.save();
      ink.beginPath();
      ink.rect(0, 0, width, height - FOOT_PX);
      ink.clip();
      this.paintMarks(ink, height);
      this.rows.forEach((row, i) => this.paintTrace(ink, row, (this.baselines[i] - this.top) * this.rise, width));
      this.paintLegs(ink, height);
      ink.restore();
      this.paintTimes(ink, width, height);
      this.tell();
    }

    paintGrid(ink, width, height) {
      for (const [mm, name] of [[1, "fine"], [5, "bold"], [25, "bold"], [250, "bold"]]) {
        if (mm * this.scale < 3.5) continue;
        ink.strokeStyle = colour(name);
        ink.lineWidth = mm >= 25 ? 1.3 : mm === 5 ? 0.8 : 0.6;
        ink.beginPath();
        const step = mm * this.rise, s = mm / MM_PER_S, right = Math.min(width, this.x(this.end));
        for (let k = Math.ceil(this.left / s - 1e-6); this.x(k * s) <= right + 0.5; k++) {
          ink.moveTo(this.x(k * s), 0);
          ink.lineTo(this.x(k * s), height - FOOT_PX);
        }
        if (mm < 25) {
          for (let y = -((this.top * this.rise) % step); y < height - FOOT_PX; y += step) {
            ink.moveTo(0, y);
            ink.lineTo(right, y);
          }
        }
        ink.stroke();
      }
    }

    paintTrace(ink, row, base, width) {
      const high = this.gain * this.rise, limit = MOST_ROOM_MV * 1.05;
      const y = (mv) => base - clamp(mv, -limit, limit) * high;
      const first = Math.max(Math.floor((this.left - this.start) * this.rate), 0);
      const last = Math.min(Math.ceil((this.seconds(width) - this.start) * this.rate) + 1, row.mv.length);
      ink.strokeStyle = colour("trace");
      ink.lineWidth = clamp(this.rise / 3.2, 0.8, 1.8);
      ink.lineJoin = "round";
      ink.beginPath();
      const perPixel = this.rate / (MM_PER_S * this.scale);
      if (perPixel > 2) this.traceExtremes(ink, row.mv, y, first, last, perPixel);
      else this.tracePoints(ink, row.mv, y, first, last);
      ink.stroke();
      ink.font = "bold 12px system-ui, sans-serif";
      const at = base - Math.min(row.up * high * 0.55, 26);
      ink.strokeStyle = colour("paper");
      ink.lineWidth = 4;
      ink.strokeText(row.name, 6, at);
      ink.fillStyle = colour("trace");
      ink.fillText(row.name, 6, at);
    }

    tracePoints(ink, mv, y, first, last) {
      let down = false;
      for (let k = first; k < last; k++) {
        if (mv[k] !== mv[k]) { down = false; continue; }
        const x = this.x(this.start + k / this.rate);
        if (down) ink.lineTo(x, y(mv[k])); else ink.moveTo(x, y(mv[k]));
        down = true;
      }
    }

    // More than two samples a pixel: lowest and highest of each, so that no QRS is lost.
    traceExtremes(ink, mv, y, first, last, perPixel) {
      let down = false;
      for (let from = first - (first % perPixel); from < last; from += perPixel) {
        let low = Infinity, high = -Infinity;
        for (let k = Math.max(Math.floor(from), 0); k < Math.min(Math.floor(from + perPixel), last); k++) {
          if (mv[k] < low) low = mv[k];
          if (mv[k] > high) high = mv[k];
        }
        if (low > high) { down = false; continue; }
        const x = this.x(this.start + from / this.rate);
        if (down) ink.lineTo(x, y(high)); else ink.moveTo(x, y(high));
        ink.lineTo(x, y(low));
        down = true;
      }
    }

    paintMarks(ink, height) {
      ink.fillStyle = colour("mark");
      for (const mark of this.marks) {
        const x = this.x(this.start + mark);
        ink.beginPath();
        ink.moveTo(x - 3.5, 1);
        ink.lineTo(x + 3.5, 1);
        ink.lineTo(x, 7);
        ink.fill();
      }
      if (this.at === null) return;
      ink.globalAlpha = 0.55;
      ink.fillRect(this.x(this.at) - 0.75, 0, 1.5, height);
      ink.globalAlpha = 1;
    }

    paintLegs(ink, height) {
      if (!this.legs) return;
      const [a, b] = this.legs.map((leg) => [this.x(leg.s), (leg.mm - this.top) * this.rise]);
      ink.strokeStyle = ink.fillStyle = colour("caliper");
      ink.globalAlpha = 0.12;
      ink.fillRect(a[0], 0, b[0] - a[0], height);
      ink.globalAlpha = 1;
      ink.lineWidth = 1.2;
      ink.beginPath();
      for (const [x, y] of [a, b]) {
        ink.moveTo(x, 0);
        ink.lineTo(x, height);
        ink.moveTo(Math.min(a[0], b[0]), y);
        ink.lineTo(Math.max(a[0], b[0]), y);
      }
      ink.stroke();
    }

    paintTimes(ink, width, height) {
      ink.fillStyle = colour("ground");
      ink.fillRect(0, height - FOOT_PX, width, FOOT_PX);
      ink.fillStyle = colour("soft");
      ink.font = "11px system-ui, sans-serif";
      ink.textAlign = "center";
      const steps = [0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600];
      const step = steps.find((s) => s * MM_PER_S * this.scale > 72) || 1200, digits = step < 1 ? 1 : 0;
      const zero = this.began ? this.began % step : 0;
      for (let k = Math.ceil((this.left + zero) / step); k * step - zero <= this.end; k++) {
        const seconds = k * step - zero, x = this.x(seconds);
        if (x > 26 && x < width - 26) ink.fillText(this.told(seconds, digits), x, height - 5);
      }
      ink.textAlign = "left";
    }

    // A second of the stream, as people read it.
    told(seconds, digits) {
      if (!this.began) return clock(seconds, digits);
      const at = this.began + seconds, ahead = -60 * new Date(1000 * at).getTimezoneOffset();
      return clock((at + ahead) % 86400, digits).padStart(digits ? 10 : 8, "0");
    }

    // What is seen and measured, in words.
    tell() {
      const zoom = (this.rise / PX_PER_MM).toFixed(1), speed = Number((MM_PER_S * this.scale / this.rise).toPrecision(2));
      const from = this.told(this.left, 1), to = this.told(Math.min(this.seconds(this.canvas.clientWidth), this.end), 1);
      const parts = [`${from} – ${to}`, `${speed} mm/s, ${this.gain} mm/mV`, `× ${zoom}`];
      if (this.legs) {
        const [a, b] = this.legs, s = Math.abs(b.s - a.s), mv = Math.abs(b.mm - a.mm) / this.gain;
        const bpm = s > 0.01 ? ` (${Math.round(60 / s)}/min)` : "";
        this.output.innerHTML = `<b>${Math.round(1000 * s)} ms${bpm}, ${mv.toFixed(2)} mV</b>`;
      } else {
        this.output.textContent = parts.join(" · ");
      }
    }

    buildTools() {
      const tools = this.figure.querySelector(".tools");
      const button = (text, label, act) => {
        const one = tools.appendChild(document.createElement("button"));
        one.type = "button";
        one.textContent = text;
        one.title = label;
        one.ariaLabel = /\w/.test(text) ? `${text}: ${label}` : label;
        one.addEventListener("click", () => { this.prepare(); act(); });
        return one;
      };
      button("−", "Zoom out", () => this.zoom(1 / 1.4));
      button("+", "Zoom in", () => this.zoom(1.4));
      button("Fit", "As at the beginning", () => this.reset());
      button("Gain", "5, 10 or 20 mm/mV", () => this.nextGain());
      this.caliper = button("Caliper", "Measure by dragging: ms, beats a minute, mV", () => this.measure());
      this.caliper.ariaPressed = "false";
      this.output = tools.appendChild(document.createElement("output"));
      const help = tools.appendChild(document.createElement("span"));
      help.className = "help";
      help.textContent = this.canvas.title = HELP;
    }

    nextGain() {
      this.gain = GAINS[(GAINS.indexOf(this.gain) + 1) % GAINS.length];
      this.lay();
      this.draw();
    }

    measure(on = !this.figure.classList.contains("measuring")) {
      this.figure.classList.toggle("measuring", on);
      this.caliper.ariaPressed = String(on);
      const middle = this.left + Math.min(this.visible, this.length) / 2, mm = this.top + this.room / this.rise / 2;
      this.legs = on ? [{ s: middle - 0.4, mm: mm + 5 }, { s: middle + 0.4, mm: mm - 5 }] : null;
      this.draw();
    }

    leg(event) {
      const box = this.canvas.getBoundingClientRect();
      return { s: this.seconds(event.clientX - box.left), mm: this.top + (event.clientY - box.top) / this.rise };
    }

    listen() {
      const on = (name, act) => this.canvas.addEventListener(name, act, { passive: false });
      on("pointerdown", (event) => this.press(event));
      on("pointermove", (event) => this.drag(event));
      for (const name of ["pointerup", "pointercancel"]) on(name, (event) => this.release(event));
      on("dblclick", () => this.reset());
      on("wheel", (event) => this.wheel(event));
      on("keydown", (event) => this.key(event));
    }

    press(event) {
      this.canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
      const measuring = this.figure.classList.contains("measuring") || event.shiftKey;
      if (measuring && this.pointers.size === 1) {
        const leg = this.leg(event);
        this.legs = [leg, leg];
        this.measures = true;
      }
      this.figure.classList.add("dragging");
    }

    drag(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      if (this.pointers.size === 2) this.pinch(before, event);
      else if (this.measures) this.legs = [this.legs[0], this.leg(event)];
      else this.pan(event.clientX - before.clientX, event.pointerType === "touch" ? 0 : event.clientY - before.clientY);
      this.pointers.set(event.pointerId, event);
      this.draw();
    }

    pinch(before, now) {
      const other = [...this.pointers.values()].find((one) => one.pointerId !== now.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      const box = this.canvas.getBoundingClientRect();
      this.measures = false;
      this.zoom(apart(now) / Math.max(apart(before), 1), (now.clientX + other.clientX) / 2 - box.left, (now.clientY + other.clientY) / 2 - box.top);
    }

    release(event) {
      this.pointers.delete(event.pointerId);
      this.measures = false;
      if (!this.pointers.size) this.figure.classList.remove("dragging");
    }

    // The page scrolls past a strip that nobody has chosen; a pinch on a touchpad comes as a wheel with Ctrl.
    wheel(event) {
      if (!event.ctrlKey && document.activeElement !== this.canvas) return;
      event.preventDefault();
      const box = this.canvas.getBoundingClientRect();
      if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(-event.deltaX, 0);
      else this.zoom(Math.exp(-clamp(event.deltaY, -100, 100) / (event.ctrlKey ? 60 : 300)), event.clientX - box.left, event.clientY - box.top);
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const far = this.canvas.clientWidth / 8, along = { ArrowLeft: -1, ArrowRight: 1 }[event.key], up = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      const acts = {
        "+": () => this.zoom(1.25), "=": () => this.zoom(1.25), "-": () => this.zoom(0.8), 0: () => this.reset(),
        g: () => this.nextGain(), c: () => this.measure(),
        Home: () => { this.left = this.start; this.draw(); }, End: () => { this.left = this.end; this.draw(); },
        PageUp: () => this.pan(8 * far, 0), PageDown: () => this.pan(-8 * far, 0),
        Escape: () => (this.legs ? this.measure(false) : this.canvas.blur()),
      };
      if (along && this.legs) this.moveLeg(event.shiftKey ? 0 : 1, along / 100, 0);
      else if (up && this.legs) this.moveLeg(event.shiftKey ? 0 : 1, 0, -up * this.gain / 20);
      else if (along) this.pan(-along * far, 0);
      else if (up) this.pan(0, up * 30);
      else if (acts[event.key]) acts[event.key]();
      else return;
      event.preventDefault();
    }

    moveLeg(index, s, mm) {
      this.legs[index] = { s: this.legs[index].s + s, mm: this.legs[index].mm + mm };
      this.draw();
    }
  }

  // The whole recording where it is here, else the strip that is nearest.
  function goTo(seconds) {
    const away = (view) => Math.max(view.start - seconds, seconds - view.end, 0);
    const holding = views.filter((view) => view.length);
    const nearest = holding.find((view) => view.whole && !away(view)) || holding.sort((a, b) => away(a) - away(b))[0];
    if (nearest) nearest.goTo(seconds);
  }

  function showPlace({ detail: view }) {
    for (const lane of document.querySelectorAll(".lane")) {
      const length = Number(lane.parentElement.dataset.duration);
      const here = lane.querySelector(".here") || lane.appendChild(Object.assign(document.createElement("div"), { className: "here" }));
      here.style.left = `${100 * view.left / length}%`;
      here.style.width = `${100 * Math.min(view.visible, view.length) / length}%`;
    }
    const slider = document.querySelector("input.place");
    if (slider && document.activeElement !== slider) slider.value = view.left + Math.min(view.visible, view.length) / 2;
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) views.find((view) => view.figure === entry.target)?.prepare();
  }, { rootMargin: "600px" });

  // Takes up the strips that have come into the page since, and lets go of those that are gone.
  function attach() {
    const held = views.filter((view) => view.figure.isConnected);
    views.filter((view) => !held.includes(view)).forEach((view) => seen.unobserve(view.figure));
    const fresh = [...document.querySelectorAll("figure.strip")].filter((figure) => !held.some((view) => view.figure === figure));
    views.splice(0, views.length, ...held, ...fresh.map((figure) => new View(figure)));
    fresh.forEach((figure) => seen.observe(figure));
    held.forEach((view) => view.ready && view.paint());
  }

  function begin() {
    attach();
    // A page whose strips or colours change later says so.
    document.addEventListener("strips-changed", attach);
    document.addEventListener("strip-moved", showPlace);
    document.addEventListener("click", (event) => {
      const lane = event.target.closest(".lane"), named = event.target.closest("[data-at]");
      if (named) goTo(Number(named.dataset.at));
      else if (lane) {
        const box = lane.getBoundingClientRect();
        goTo((event.clientX - box.left) / box.width * Number(lane.parentElement.dataset.duration));
      }
    });
    document.addEventListener("input", (event) => { if (event.target.matches("input.place")) goTo(Number(event.target.value)); });
    const again = () => views.forEach((view) => view.ready && view.paint());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
    window.addEventListener("beforeprint", () => views.forEach((view) => { view.prepare(); view.paint(); }));
    window.addEventListener("afterprint", again);
    matchMedia("print").addEventListener("change", again);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
