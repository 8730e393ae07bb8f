// What who looks has chosen in; kept in this browser, and told to whoever listens, out.

const KEY = "cardiogloss";
const DEFAULTS = {
  theme: "auto",
  px_per_mm: 96 / 25.4,
  speed: 25,
  gain: 10,
  baseline_hz: 0.5,
  name: "",
  sound: false,
  keys: true,
  alerts_first: false,
  leads: null,
  findings_by: "probability",
};

/** Dispatches `change` after each `set`. */
export class Settings extends EventTarget {
  constructor() {
    super();
    this.values = { ...DEFAULTS, ...stored() };
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.values[name] = value;
    // A browser may refuse to keep anything: then it holds until the page is closed.
    try {
      localStorage.setItem(KEY, JSON.stringify(this.values));
    } catch {
      /* kept in memory */
    }
    this.dispatchEvent(new CustomEvent("change", { detail: name }));
  }
}

function stored() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
