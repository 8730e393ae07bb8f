// The settings of this browser in; a form that changes them at once out.

import { make, put } from "./elements.js";
import { ring } from "./sound.js";

const RULER_MM = 100,
  INCH_MM = 25.4,
  CSS_DPI = 96;

const CHOICES = {
  theme: [
    "Colours",
    [
      ["auto", "as the system"],
      ["dark", "dark"],
      ["light", "light"],
    ],
  ],
  speed: [
    "Paper speed",
    [
      [12.5, "12.5 mm/s"],
      [25, "25 mm/s"],
      [50, "50 mm/s"],
    ],
  ],
  gain: [
    "Gain",
    [
      [5, "5 mm/mV"],
      [10, "10 mm/mV"],
      [20, "20 mm/mV"],
    ],
  ],
  baseline_hz: [
    "Baseline of live strips",
    [
      [0.05, "as it is, from 0.05 Hz (ST holds)"],
      [0.5, "steady, from 0.5 Hz (bends ST)"],
    ],
  ],
};

/** {root, update()} */
export function settingsForm({ settings }) {
  const fields = [
    text(settings, "name", "Name of who acknowledges"),
    ...Object.entries(CHOICES).map(([name, [words, options]]) => choice(settings, name, words, options)),
    tick(settings, "sound", "Sound alerts in this browser"),
    tick(settings, "keys", "Single keys act (A, W, H, …)"),
    { root: make("button", { type: "button", onclick: () => ring("high") }, "Try the sound"), update() {} },
    new Ruler(settings),
  ];
  const form = { className: "settings", onsubmit: (event) => event.preventDefault() };
  const update = () => fields.forEach((one) => one.update());
  update();
  return { root: make("form", form, ...fields.map((one) => one.root)), update };
}

function text(settings, name, words) {
  const set = () => settings.set(name, input.value.trim());
  const input = make("input", { type: "text", maxLength: 60, autocomplete: "off", onchange: set });
  const show = () => {
    input.value = settings.get(name);
  };
  return field(words, input, () => document.activeElement === input || show());
}

function choice(settings, name, words, options) {
  const valueOf = Object.fromEntries(options.map(([value]) => [String(value), value]));
  const set = () => settings.set(name, valueOf[input.value]);
  const input = make("select", { onchange: set }, ...options.map(([value, said]) => make("option", { value: String(value) }, said)));
  return field(words, input, () => {
    input.value = String(settings.get(name));
  });
}

function tick(settings, name, words) {
  const input = make("input", { type: "checkbox", onchange: () => settings.set(name, input.checked) });
  return field(words, input, () => {
    input.checked = settings.get(name);
  });
}

function field(words, input, update) {
  return { root: make("label", {}, make("span", {}, words), input), update };
}

// A screen does not know how large it is: whoever sits before it measures a line.
class Ruler {
  constructor(settings) {
    this.settings = settings;
    this.bar = make("div", { className: "ruler", ariaHidden: "true" });
    this.input = make("input", {
      type: "range",
      min: "1.5",
      max: "12",
      step: "0.01",
      oninput: () => settings.set("px_per_mm", Number(this.input.value)),
    });
    this.said = make("output");
    const reset = make("button", { type: "button", onclick: () => settings.set("px_per_mm", CSS_DPI / INCH_MM) }, "As the browser says");
    const label = make("label", {}, `Screen: make the line below exactly ${RULER_MM} mm long`, this.input);
    this.root = make("div", { className: "screen" }, label, this.bar, this.said, reset);
  }

  update() {
    const px = this.settings.get("px_per_mm");
    this.input.value = String(px);
    this.bar.style.width = `${RULER_MM * px}px`;
    put(this.said, `${px.toFixed(2)} pixels a millimetre`);
  }
}
